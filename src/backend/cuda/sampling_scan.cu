// The pass over whole rows of logits: bound by memory bandwidth.
#include "backend/cuda/sampling.cuh"

namespace nanovllm::cuda {
namespace {

// Of this many vocabulary blocks a block of threads finds the maxima: eight lanes each.
constexpr int kBlocks = kScanThreads / 8;

// logprobs: the logits as they are, of rows that want logprobs; else the adjusted ones, of rows
// that are drawn.
__global__ void __launch_bounds__(kScanThreads) scan_kernel(SamplingRows rows, bool logprobs) {
  const int r = static_cast<int>(blockIdx.y);
  wait_for_previous_kernel();
  let_next_kernel_start();
  const RowParams& params = rows.params[r];
  if (logprobs ? params.num_logprobs < 0 : params.scored_token >= 0) return;
  const LogitRow row(rows, r, !logprobs);
  const int blocks = static_cast<int>(scan_blocks(rows.vocab));
  const int lane = threadIdx.x % 8,
            block = static_cast<int>(blockIdx.x) * kBlocks + threadIdx.x / 8;
  float x[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = row[block * 64 + i * 8 + lane];
  float maximum = -INFINITY;
#pragma unroll
  for (int i = 0; i < 8; ++i) maximum = fmaxf(maximum, x[i]);
#pragma unroll
  for (int mask = 4; mask > 0; mask /= 2)
    maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, mask));
  if (block < blocks && lane == 0) rows.maxima[int64_t{r} * blocks + block] = maximum;

  // Only where all of the row is summed up.
  const bool sums = logprobs || draws_from_whole_nucleus(params);
  if (!sums) return;
  const float scale = logprobs ? 1 : static_cast<float>(1 / params.temperature);
  const float base = maximum == -INFINITY ? 0 : maximum;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += __expf((x[i] - base) * scale);
#pragma unroll
  for (int mask = 4; mask > 0; mask /= 2) sum += __shfl_xor_sync(kAllLanes, sum, mask);
  if (block < blocks && lane == 0) rows.sums[int64_t{r} * blocks + block] = sum;
}

}  // namespace

void scan_rows(const SamplingRows& rows, bool logprobs, cudaStream_t stream) {
  const dim3 grid(ceil_div(scan_blocks(rows.vocab), kBlocks), static_cast<unsigned>(rows.num_rows));
  launch(scan_kernel, grid, kScanThreads, 0, stream, rows, logprobs);
}

}  // namespace nanovllm::cuda
