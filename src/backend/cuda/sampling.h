// The kernels that draw tokens, as functions of the host, and what they read and write. Rows are
// those of one call of CudaSampler::draw(), at most a fixed number; pointers are to device memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/step_sampler.h"

namespace nanovllm::cuda {

// What is plain in a SampleRow: it travels with the batch.
struct RowParams {
  uint64_t seed;
  int64_t position;
  double temperature, top_p, min_p, presence, frequency;
  float repetition;
  int32_t index, scored_token, num_logprobs, top_k;  // top_k 0: all
};

// The rest of it, for rows that have any.
struct RowExtras {
  const LogitBias* biases;    // each token once
  float* unbiased;            // [num_biases] the logits before, while they are changed
  const uint32_t* allowed;    // bits, or null: all
  uint32_t* counts;           // [vocab] or null: see kInPrompt
  const int32_t* new_tokens;  // that are not in counts yet
  int32_t num_biases, num_new, num_new_of_prompt;
};
// How often a token is in the output, and this bit if it is in the prompt.
constexpr uint32_t kInPrompt = 0x80000000u;

constexpr double kGreedyBelow = 1e-5;  // temperature
constexpr int kMaxLogprobs = 20;       // and the token itself

struct SamplingRows {
  float* logits = nullptr;  // [num_rows, vocab]
  int num_rows = 0, vocab = 0;
  const RowParams* params = nullptr;         // [num_rows]
  const RowExtras* extras = nullptr;         // [num_rows], or null: no row has any
  float *maxima = nullptr, *sums = nullptr;  // scratch, [num_rows, scan_blocks(vocab)]
  int32_t* tokens = nullptr;                 // [num_rows] drawn
  TokenLogprob* logprobs = nullptr;          // [num_rows, kMaxLogprobs + 1]
};
// The vocabulary in blocks of 64, as VocabularyScan has it.
constexpr int64_t scan_blocks(int64_t vocab) { return (vocab + 63) / 64; }

// sampling_adjust.cu: counts what is new in the sequences and adds biases to the logits; and takes
// the biases back.
void apply_extras(const SamplingRows& rows, cudaStream_t stream);
void remove_biases(const SamplingRows& rows, cudaStream_t stream);
// sampling.cu
void draw_tokens(const SamplingRows& rows, cudaStream_t stream);
// sampling_logprobs.cu: of the logits as the model left them.
void compute_logprobs(const SamplingRows& rows, cudaStream_t stream);

}  // namespace nanovllm::cuda
