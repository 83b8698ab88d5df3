// Logprobs: of the token drawn or scored, and of the most likely ones.
#include "backend/cuda/sampling.cuh"

namespace nanovllm::cuda {
namespace {

__global__ void __launch_bounds__(kDrawThreads, 1) logprobs_kernel(SamplingRows rows) {
  __shared__ DrawSpace space;
  __shared__ float best[kMaxLogprobs];
  __shared__ int best_ids[kMaxLogprobs];
  __shared__ int found;
  const int r = static_cast<int>(blockIdx.x), thread = threadIdx.x;
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int wanted = rows.params[r].num_logprobs;
  if (wanted < 0) return;
  const int blocks = static_cast<int>(scan_blocks(rows.vocab));
  const RowScan scan = {LogitRow(rows, r, false), rows.maxima + int64_t{r} * blocks, blocks,
                        &space};
  const float* const sums = rows.sums + int64_t{r} * blocks;
  const float largest = scan.largest();
  double sum = 0;
  for (int b = thread; b < blocks; b += kDrawThreads)
    sum += sums[b] * expf(scan.maxima[b] - largest);
  sum = block_reduce(sum, 0.0, space.doubles, [](double a, double b) { return a + b; });
  const double log_sum = largest + log(sum);
  TokenLogprob* const out = rows.logprobs + int64_t{r} * (kMaxLogprobs + 1);
  const auto put = [&](int at, int id, float logit, int64_t rank) {
    out[at].token_id = id;
    out[at].logprob = static_cast<float>(logit - log_sum);
    out[at].rank = rank;
  };

  const int token = rows.tokens[r];
  const float logit = scan.row[token];
  int larger = 0;
  scan.for_tokens(logit, [&](int, float x) { larger += x > logit; });
  larger = block_reduce(larger, 0, space.ints, [](int a, int b) { return a + b; });
  if (thread == 0) put(0, token, logit, larger + 1);

  const int n = min(wanted, rows.vocab);
  if (n == 0) return;
  const float nth = scan.kth_largest(n);
  if (thread == 0) found = 0;
  __syncthreads();
  scan.for_tokens(nth, [&](int id, float x) {
    if (!(x > nth)) return;
    const int at = atomicAdd(&found, 1);  // there are fewer than n
    best[at] = x;
    best_ids[at] = id;
  });
  __syncthreads();
  const int above = found;
  if (thread < above) {
    int rank = 1;
    for (int i = 0; i < above; ++i)
      rank += best[i] > best[thread] || (best[i] == best[thread] && best_ids[i] < best_ids[thread]);
    put(rank, best_ids[thread], best[thread], rank);
  }
  // Of the tokens equal to the n-th only the first are wanted, and there may be many.
  for (int rank = above + 1, last = -1; rank <= n; ++rank) {
    last = scan.first_equal(nth, last);
    if (thread == 0) put(rank, last, nth, rank);
  }
}

}  // namespace

void compute_logprobs(const SamplingRows& rows, cudaStream_t stream) {
  scan_rows(rows, true, stream);
  launch(logprobs_kernel, static_cast<unsigned>(rows.num_rows), kDrawThreads, 0, stream, rows);
}

}  // namespace nanovllm::cuda
