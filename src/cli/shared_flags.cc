#include "cli/shared_flags.h"

#include <algorithm>
#include <limits>

#include "cli/cli.h"
#include "nanovllm/error.h"
#include "server/openai_json.h"
#include "server/structured_request.h"

namespace nanovllm::cli {
namespace {

constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();

std::map<int32_t, double> parse_logit_bias(const std::string& flag, const std::string& text) {
  std::map<int32_t, double> bias;
  try {
    const openai::Json object = openai::parse_body(text);
    openai::Fields check(object, flag);
    for (const auto& [key, value] : object.items()) {
      if (!value.is_number())
        throw InvalidArgument(flag, "the bias of token " + key + " is not a number");
      bias[static_cast<int32_t>(parse_integer(flag, key, 0, kMaxId))] = value.get<double>();
    }
  } catch (const InvalidArgument& e) {
    throw InvalidArgument(flag, "'" + text + "' is not allowed (" + e.reason() +
                                    R"(); give JSON such as {"42": -100})");
  }
  return bias;
}

StructuredOutputs parse_structured_outputs(const std::string& flag, const std::string& text) {
  try {
    return openai::parse_structured_outputs(openai::parse_body(text), flag);
  } catch (const InvalidArgument& e) {
    throw InvalidArgument(flag, e.where() == flag ? e.reason() : e.what());
  }
}

void set_structured_outputs(SamplingParams& params, const std::string& flag,
                            StructuredOutputs outputs) {
  if (params.structured_outputs.enabled())
    throw InvalidArgument(flag, "the answer's form has been given already");
  params.structured_outputs = std::move(outputs);
}

}  // namespace

void add_model_flags(Flags& flags, EngineConfig* config, bool* given) {
  auto set = [config, given](const std::string& flag, const std::string& value) {
    if (value.empty()) throw InvalidArgument(flag, "'' is not a model");
    config->model = value;
    if (given) *given = true;
  };
  flags.positional(
      "MODEL",
      "a folder as Hugging Face lays it out, a .gguf file, or a short name (default: " +
          config->model + ", fetched once)",
      set);
  flags.value("-m,--model", "MODEL", "the same, as a flag", set);
}

void add_engine_flags(Flags& flags, EngineConfig* config) {
  flags.heading("Engine");
  flags.integer("--max-model-len",
                "tokens of prompt and answer together; 0: the model's limit, or what the KV cache "
                "holds (default: 0)",
                &config->max_model_len, 0);
  flags.integer("--max-num-seqs", "sequences that run at once (default: 64, on a GPU 256)",
                &config->max_num_seqs, 1);
  flags.integer("--max-num-batched-tokens",
                "token budget of one step (default: 512, on a GPU 8192)",
                &config->max_num_batched_tokens, 1);
  flags.integer("--block-size", "tokens a KV cache block holds (default: 16)", &config->block_size,
                1);
  flags.value("--kv-cache-memory-bytes", "SIZE",
              "memory of the KV cache, as 2GiB or 512MiB; 0: what --max-num-seqs can use, at most "
              "1GiB, or what --gpu-memory-utilization leaves (default: 0)",
              [config](const std::string& flag, const std::string& value) {
                config->kv_cache_memory_bytes = parse_memory_bytes(flag, value);
              });
  flags.text("--kv-cache-dtype", "TYPE",
             "auto, float32, bfloat16 or int8 (default: auto, which is bfloat16)",
             &config->kv_cache_dtype);
  flags.text(
      "--dtype", "TYPE",
      "auto, float32 or bfloat16: how weights that are not quantized are kept (default: auto)",
      &config->dtype);
  flags.text("--quantization", "TYPE",
             "none, int8, int4, or fp8 with --device cuda (default: none)", &config->quantization);
  flags.integer("--tensor-parallel-size",
                "ranks that hold a slice of the weights each and work together (default: 1)",
                &config->tensor_parallel_size);
  flags.text("--device", "DEVICE",
             "auto, cpu or cuda; auto is cuda where there is a GPU and its plugin (default: auto)",
             &config->device);
  flags.number("--gpu-memory-utilization",
               "share to use of the GPU's memory that is free for this process (default: 0.9)",
               &config->gpu_memory_utilization);
  flags.toggle("--enforce-eager", "no CUDA graphs", &config->enforce_eager);
  flags.toggle(
      "--async-scheduling",
      "on a GPU, schedule and enqueue a step before the tokens of the one before are known "
      "(the default)",
      &config->async_scheduling, true);
  flags.toggle("--no-async-scheduling", "one step after the other; the tokens are the same",
               &config->async_scheduling, false);
  flags.integer("--threads",
                "CPU threads, of all ranks on this machine together; 0: one for each physical core "
                "this process may use (default: 0)",
                &config->threads, 0);
  flags.toggle("--enable-prefix-caching", "share equal beginnings of prompts (the default)",
               &config->enable_prefix_caching, true);
  flags.toggle("--no-enable-prefix-caching", "compute every prompt anew",
               &config->enable_prefix_caching, false);
  flags.number("--structured-outputs-timeout",
               "seconds that compiling a schema or grammar may take (default: 5)",
               &config->structured_outputs_timeout);
  flags.value("--speculative-config", "JSON",
              R"(guess tokens from the text so far and check them several at a time, as )"
              R"({"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 5, )"
              R"("prompt_lookup_min": 2}; the answers stay the same (default: none))",
              [config](const std::string& flag, const std::string& value) {
                config->speculative_config = parse_speculative_config(flag, value);
              });
}

void add_engine_seed(Flags& flags, EngineConfig* config) {
  flags.value("--seed", "N", "seeds whatever names no seed of its own (default: 0)",
              [config](const std::string& flag, const std::string& value) {
                config->seed = static_cast<uint64_t>(parse_integer(flag, value, 0));
              });
}

void add_trace_flag(Flags& flags, std::string* path) {
  flags.text("--trace", "FILE", "write every step there, for Perfetto or chrome://tracing", path);
}

bool SamplingFlags::has(const char* flag) const {
  return std::find(given.begin(), given.end(), flag) != given.end();
}

void SamplingFlags::check() const {
  try {
    params.validate(0);
  } catch (const InvalidArgument& e) {  // names the field
    std::string flag = "--" + e.where();
    std::replace(flag.begin(), flag.end(), '_', '-');
    throw InvalidArgument(flag, e.reason());
  }
}

SamplingParams SamplingFlags::resolve(const GenerationDefaults& defaults) const {
  SamplingParams p = params;
  if (!has("--temperature")) p.temperature = defaults.temperature.value_or(p.temperature);
  if (!has("--top-k")) p.top_k = defaults.top_k.value_or(p.top_k);
  if (!has("--top-p")) p.top_p = defaults.top_p.value_or(p.top_p);
  if (!has("--min-p")) p.min_p = defaults.min_p.value_or(p.min_p);
  if (!has("--repetition-penalty"))
    p.repetition_penalty = defaults.repetition_penalty.value_or(p.repetition_penalty);
  return p;
}

void add_sampling_flags(Flags& flags, SamplingFlags* sampling, EngineConfig* config,
                        int64_t default_max_tokens) {
  SamplingParams& p = sampling->params;
  p.max_tokens = default_max_tokens;
  flags.heading(
      "Sampling (what is left out comes from the model's generation_config.json, then from the "
      "defaults here)");
  auto number = [&](const char* name, const char* help, double* target) {
    flags.value(name, "X", help, [=](const std::string& flag, const std::string& value) {
      *target = parse_number(flag, value);
      sampling->given.push_back(flag);
    });
  };
  auto integer = [&](const char* names, const std::string& help, int64_t min, auto* target) {
    flags.value(names, "N", help, [=](const std::string& flag, const std::string& value) {
      *target = parse_integer(flag, value, min);
      sampling->given.push_back(flag);
    });
  };
  number("--temperature", "0 always takes the likeliest token (default: 1)", &p.temperature);
  integer("--top-k", "only the K likeliest tokens; 0: all (default: 0)", -1, &p.top_k);
  number("--top-p", "only the likeliest tokens that together reach P (default: 1)", &p.top_p);
  number("--min-p", "only tokens at least P times as likely as the likeliest (default: 0)",
         &p.min_p);
  number("--repetition-penalty", "above 1 discourages tokens of prompt and answer (default: 1)",
         &p.repetition_penalty);
  number("--presence-penalty", "-2 to 2, subtracted for tokens already in the answer (default: 0)",
         &p.presence_penalty);
  number("--frequency-penalty", "-2 to 2, the same for each time they occur (default: 0)",
         &p.frequency_penalty);
  flags.value("--logit-bias", "JSON",
              R"(token ids and what to add to their logits, as {"42": -100})",
              [&p](const std::string& flag, const std::string& value) {
                p.logit_bias = parse_logit_bias(flag, value);
              });
  flags.value("--seed", "N", "the same seed gives the same answer (default: 0)",
              [&p, config](const std::string& flag, const std::string& value) {
                p.seed = parse_integer(flag, value, 0);
                config->seed = static_cast<uint64_t>(*p.seed);
              });
  const std::string limit =
      default_max_tokens < 0 ? "up to the context" : std::to_string(default_max_tokens);
  integer("--max-tokens", "longest answer; -1: up to the context (default: " + limit + ")", -1,
          &p.max_tokens);
  integer("--min-tokens", "shortest answer (default: 0)", 0, &p.min_tokens);
  flags.value("--stop", "TEXT", "end the answer before this text; may be given several times",
              [&p](const std::string&, const std::string& value) { p.stop.push_back(value); });
  flags.values(
      "--stop-token-ids", "ID", "end the answer at these tokens",
      [&p](const std::string& flag, const std::string& value) {
        p.stop_token_ids.push_back(static_cast<int32_t>(parse_integer(flag, value, 0, kMaxId)));
      });
  flags.value("--structured-outputs", "JSON",
              R"(a form that the answer must have, as in a request: {"json": SCHEMA}, {"regex": )"
              R"("..."}, {"choice": ["yes", "no"]}, {"grammar": "..."} or {"json_object": true})",
              [&p](const std::string& flag, const std::string& value) {
                set_structured_outputs(p, flag, parse_structured_outputs(flag, value));
              });
  flags.value("--json-schema", "FILE", "the same with the JSON schema in a file; - is stdin",
              [&p](const std::string& flag, const std::string& value) {
                StructuredOutputs outputs;
                outputs.json = read_text_file(value, size_t{1} << 20);
                set_structured_outputs(p, flag, std::move(outputs));
              });
  flags.toggle("--ignore-eos", "go on after the model's end-of-text token", &p.ignore_eos);
}

}  // namespace nanovllm::cli
