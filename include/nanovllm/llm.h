// LLM: the library's front door. Loads a model, takes requests, runs them together, gives back
// text.
//
//   nanovllm::LLM llm({.model = "model.gguf"});
//   for (auto& out : llm.generate({{.text = "Hello"}}, {.max_tokens = 32}))
//   puts(out.outputs[0].text.c_str());
//
// Thread-safety: one thread at a time, but any thread at any time may call compile(),
// check_request(), the tokenizer's functions, config(), info(), memory_plan() and
// generation_defaults(). Callbacks run inside step(); they may call add_request() and cancel().
// Every error a user can cause is a nanovllm::Error.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nanovllm/config.h"
#include "nanovllm/error.h"
#include "nanovllm/outputs.h"
#include "nanovllm/sampling_params.h"

namespace nanovllm {

// A prompt is text, or token ids (which win if both are set).
struct Prompt {
  std::string text;
  std::vector<int32_t> token_ids;
  bool add_special_tokens = true;  // BOS and the like, for text; false for a rendered chat template
};

struct RequestOptions {
  int priority = 0;        // lower runs earlier; equal ones in order of arrival
  std::string cache_salt;  // requests share cached prefixes only with requests of the same salt
};

struct StepTrace;
using StreamCallback = std::function<void(const StreamEvent&)>;

// Byte counts printed before anything runs; peak of the process, or of what it holds on a GPU =
// about their sum. Of each rank where there are several: the largest one's.
struct MemoryPlan {
  int64_t weights_bytes = 0, kv_cache_bytes = 0, activation_bytes = 0;
  int64_t reserved_bytes = 0;  // what else a GPU's backend takes: staging, workspace, CUDA graphs
  int64_t free_bytes = 0;      // on the GPU, for this process, before it took any; 0: no GPU
  int64_t num_kv_blocks = 0, block_size = 0, kv_bytes_per_token = 0, max_model_len = 0;
  int64_t num_ranks = 1;

  int64_t total_bytes() const {
    return weights_bytes + kv_cache_bytes + activation_bytes + reserved_bytes;
  }
};

struct ModelInfo {
  std::string name, architecture, weight_dtype, kv_cache_dtype,
      backend;               // e.g. "llama", "Q4_1", "bfloat16", "cpu (avx2, 2 threads)"
  std::string backend_note;  // why --device auto is not the GPU of this machine; mostly empty
  int64_t num_parameters = 0, num_layers = 0, hidden_size = 0, num_heads = 0, num_kv_heads = 0,
          head_dim = 0;
  int64_t vocab_size = 0, max_position_embeddings = 0;
  int threads = 0;
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1;
  bool has_tokenizer = false, has_chat_template = false;
};

// Where the time of the steps went. What is not a kernel is schedule, sample and postprocess
// (detokenizing and the requests' callbacks among it).
struct StepSeconds {
  double schedule = 0, model = 0, logits = 0, sample = 0, postprocess = 0;
};

// Counters since construction.
struct EngineStats {
  int64_t steps = 0, steps_dropped = 0, prompt_tokens_computed = 0, prompt_tokens_cached = 0,
          tokens_generated = 0, preemptions = 0;
  // Speculative decoding: times something was guessed, tokens guessed, tokens that were right.
  int64_t num_drafts = 0, num_draft_tokens = 0, num_accepted_tokens = 0;
  int64_t running = 0, waiting = 0, kv_blocks_used = 0, kv_blocks_total = 0;
  StepSeconds seconds;
};

// Whether mpirun has started this process as a rank above 0. Such a program makes no LLM; it does
// its part of the one on rank 0, from its start to its end, and throws Error if this rank or
// another cannot go on. config: as that LLM's, but for the model's place on this host.
bool is_worker_rank();
void work_as_rank(EngineConfig config);

class LLM {
 public:
  explicit LLM(const EngineConfig& config);
  ~LLM();
  LLM(LLM&&) noexcept;
  LLM& operator=(LLM&&) noexcept;

  // All prompts to completion, in order. One SamplingParams for all, or one a prompt. on_progress
  // (may be null) is called after each step; when it returns false everything left is aborted and
  // what there is comes back.
  std::vector<RequestOutput> generate(
      std::span<const Prompt> prompts, std::span<const SamplingParams> params,
      const std::function<bool(const EngineStats&)>& on_progress = nullptr);

  // Queues a request; refuses (InvalidArgument) what could never run: too long for max_model_len,
  // too large for the KV cache, ids outside the vocabulary, parameters out of range.
  uint64_t add_request(const Prompt& prompt, const SamplingParams& params, StreamCallback callback,
                       const RequestOptions& options = {});
  // Throws what add_request() would, without queueing anything. Any thread.
  void check_request(const Prompt& prompt, const SamplingParams& params) const;
  // Makes ready what outputs asks for, so that add_request() need not, which may take seconds;
  // nothing to do if it is none. Throws InvalidArgument naming the form that is wrong or takes
  // longer than structured_outputs_timeout.
  void compile(StructuredOutputs* outputs) const;
  void cancel(uint64_t request_id);  // at any moment; unknown ids are ignored. The callback sees
                                     // one kAbort event.
  // One forward pass over one batch; throws only for defects, never for a request. As soon as
  // *give_up, which any thread may set, is true, the pass ends between two layers and counts for
  // nothing: false, and the next step does its work again, with whoever should not wait for it.
  bool step(const std::atomic<bool>* give_up = nullptr);
  bool has_unfinished_requests() const;

  // Called inside step(), at the end of each one that computed something; a null one ends that.
  // It may call add_request() and cancel(), and one that throws is not called again. Gathering a
  // StepTrace costs some microseconds a step (it visits every KV block), no observer costs nothing.
  void set_step_observer(std::function<void(const StepTrace&)> observer);
  // The same between two steps: who runs and waits and holds which blocks now, and an empty batch.
  StepTrace snapshot() const;

  // Tokenizer. Throws Error if the model has none (a folder without tokenizer files runs on token
  // ids).
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = true) const;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = true) const;
  std::string token_text(int32_t id) const;  // "token_id:N" without a tokenizer
  // messages_json: a JSON array of OpenAI messages; options_json: a JSON object of extra template
  // variables ("tools", ...)
  std::string apply_chat_template(std::string_view messages_json, bool add_generation_prompt = true,
                                  std::string_view options_json = "{}") const;
  const std::string& chat_template() const;  // its text; empty if the model has none

  const EngineConfig& config() const;  // with what the flags left to the model and the device
  const ModelInfo& info() const;
  const MemoryPlan& memory_plan() const;
  const GenerationDefaults& generation_defaults() const;
  EngineStats stats() const;
  void check_integrity()
      const;  // throws std::logic_error if an invariant of the scheduler or the KV cache is broken

 private:
  std::vector<int32_t> token_ids(const Prompt& prompt, const SamplingParams& params) const;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nanovllm
