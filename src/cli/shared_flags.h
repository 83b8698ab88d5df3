// The two tables that commands share: engine flags and sampling parameters, each flag with one
// spelling and one help text.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/flags.h"
#include "nanovllm/config.h"
#include "nanovllm/sampling_params.h"

namespace nanovllm::cli {

// MODEL as the one word, or vLLM's --model. *given (may be null) becomes true if the user named
// one.
void add_model_flags(Flags& flags, EngineConfig* config, bool* given = nullptr);
// The engine's flags but --seed and the model.
void add_engine_flags(Flags& flags, EngineConfig* config);
void add_engine_seed(Flags& flags, EngineConfig* config);
// Where a TraceFile goes.
void add_trace_flag(Flags& flags, std::string* path);

// What the user said about sampling; the rest comes from the model's generation_config.json, then
// vLLM's defaults.
struct SamplingFlags {
  SamplingParams params;
  std::vector<std::string> given;  // flags that were set, by name
  SamplingParams resolve(const GenerationDefaults& defaults) const;
  void check() const;  // ranges, before a model is loaded; complaints name the flag
  bool has(const char* flag) const;
};

// default_max_tokens: used when the user names none; -1 is up to the context. --seed seeds the
// engine too.
void add_sampling_flags(Flags& flags, SamplingFlags* sampling, EngineConfig* config,
                        int64_t default_max_tokens);

}  // namespace nanovllm::cli
