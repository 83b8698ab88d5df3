// What changes logits before tokens are drawn: the sequences' counts for their penalties, and
// biases.
#include "backend/cuda/launch.cuh"
#include "backend/cuda/sampling.h"

namespace nanovllm::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void apply_kernel(SamplingRows rows) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const RowExtras extras = rows.extras[blockIdx.x];
  for (int i = threadIdx.x; i < extras.num_new; i += kThreads) {
    uint32_t* const count = extras.counts + extras.new_tokens[i];
    if (i < extras.num_new_of_prompt)
      atomicOr(count, kInPrompt);
    else
      atomicAdd(count, 1u);
  }
  float* const logits = rows.logits + int64_t{blockIdx.x} * rows.vocab;
  for (int i = threadIdx.x; i < extras.num_biases; i += kThreads) {
    const LogitBias bias = extras.biases[i];
    extras.unbiased[i] = logits[bias.token_id];
    logits[bias.token_id] += bias.bias;
  }
}

__global__ void remove_kernel(SamplingRows rows) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const RowExtras extras = rows.extras[blockIdx.x];
  float* const logits = rows.logits + int64_t{blockIdx.x} * rows.vocab;
  for (int i = threadIdx.x; i < extras.num_biases; i += kThreads)
    logits[extras.biases[i].token_id] = extras.unbiased[i];
}

}  // namespace

void apply_extras(const SamplingRows& rows, cudaStream_t stream) {
  launch(apply_kernel, static_cast<unsigned>(rows.num_rows), kThreads, 0, stream, rows);
}

void remove_biases(const SamplingRows& rows, cudaStream_t stream) {
  launch(remove_kernel, static_cast<unsigned>(rows.num_rows), kThreads, 0, stream, rows);
}

}  // namespace nanovllm::cuda
