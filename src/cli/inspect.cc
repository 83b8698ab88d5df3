// inspect: what a model is, its tensors, and the memory it will take, without loading the weights.
#include "nanovllm/inspect.h"

#include <fmt/format.h>

#include <map>
#include <memory>

#include "cli/cli.h"
#include "cli/load.h"
#include "cli/shared_flags.h"
#include "server/openai_json.h"

namespace nanovllm::cli {
namespace {

using openai::Json;

struct InspectOptions {
  EngineConfig config;
  bool json = false;
};

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::string json_report(const ModelInspection& m) {
  Json tensors = Json::array();
  for (const TensorInfo& t : m.tensors)
    tensors.push_back(
        {{"name", t.name}, {"dtype", t.dtype}, {"shape", t.shape}, {"bytes", t.bytes}});
  const ModelInfo& i = m.info;
  const MemoryPlan& p = m.plan;
  const Json report = {{"name", i.name},
                       {"architecture", i.architecture},
                       {"num_parameters", i.num_parameters},
                       {"num_layers", i.num_layers},
                       {"hidden_size", i.hidden_size},
                       {"num_heads", i.num_heads},
                       {"num_kv_heads", i.num_kv_heads},
                       {"head_dim", i.head_dim},
                       {"vocab_size", i.vocab_size},
                       {"max_position_embeddings", i.max_position_embeddings},
                       {"weight_dtype", i.weight_dtype},
                       {"kv_cache_dtype", i.kv_cache_dtype},
                       {"backend", i.backend},
                       {"bos_token_id", i.bos_token_id < 0 ? Json() : Json(i.bos_token_id)},
                       {"eos_token_ids", i.eos_token_ids},
                       {"tokenizer", i.has_tokenizer ? Json(m.tokenizer) : Json()},
                       {"chat_template", i.has_chat_template},
                       {"file_bytes", m.file_bytes},
                       {"memory",
                        {{"weights_bytes", p.weights_bytes},
                         {"kv_cache_bytes", p.kv_cache_bytes},
                         {"activation_bytes", p.activation_bytes},
                         {"reserved_bytes", p.reserved_bytes},
                         {"total_bytes", p.total_bytes()},
                         {"gpu_free_bytes", p.free_bytes},
                         {"num_kv_blocks", p.num_kv_blocks},
                         {"block_size", p.block_size},
                         {"kv_bytes_per_token", p.kv_bytes_per_token},
                         {"max_model_len", p.max_model_len}}},
                       {"tensors", std::move(tensors)}};
  return openai::dump(report) + "\n";
}

std::string text_report(const ModelInspection& m) {
  const ModelInfo& i = m.info;
  const MemoryPlan& p = m.plan;
  std::map<std::string, std::pair<int64_t, int64_t>> by_type;  // count, bytes
  size_t width = 0;
  for (const TensorInfo& t : m.tensors) {
    by_type[t.dtype].first += 1;
    by_type[t.dtype].second += t.bytes;
    width = std::max(width, t.name.size());
  }
  std::string out;
  auto line = [&out](const char* label, const std::string& text) {
    out += fmt::format("{:<16}{}\n", label, text);
  };
  line("model", i.name);
  line("architecture", i.architecture);
  line("parameters", fmt::format("{:.1f} M", static_cast<double>(i.num_parameters) / 1e6));
  line("layers", fmt::format("{} of hidden size {}", i.num_layers, i.hidden_size));
  line("attention", fmt::format("{} heads, {} key/value heads, head size {}", i.num_heads,
                                i.num_kv_heads, i.head_dim));
  line("context", fmt::format("{} tokens (the model's own limit {})", p.max_model_len,
                              i.max_position_embeddings));
  line("vocabulary", fmt::format("{} tokens", i.vocab_size));
  line("tokenizer", i.has_tokenizer ? m.tokenizer : "none: runs on token ids");
  line("chat template", i.has_chat_template ? "yes" : "no");
  line("end of text",
       i.eos_token_ids.empty() ? "none" : fmt::format("{}", fmt::join(i.eos_token_ids, ", ")));
  line("file", format_bytes(m.file_bytes));
  for (const auto& [type, sum] : by_type)
    line("", fmt::format("{:<6} {} in {} tensors", type, format_bytes(sum.second), sum.first));
  line("backend", i.backend);
  if (!i.backend_note.empty()) line("", "no GPU: " + i.backend_note);
  line("memory",
       format_bytes(p.total_bytes()) + " in all" +
           (p.free_bytes ? ", of " + format_bytes(p.free_bytes) + " free on the GPU" : ""));
  line("  weights", format_bytes(p.weights_bytes));
  line("  KV cache", fmt::format("{}: {} blocks of {} tokens, {} a token, {}",
                                 format_bytes(p.kv_cache_bytes), p.num_kv_blocks, p.block_size,
                                 format_bytes(p.kv_bytes_per_token), i.kv_cache_dtype));
  line("  activations", format_bytes(p.activation_bytes));
  if (p.reserved_bytes) line("  workspace", format_bytes(p.reserved_bytes));
  out += "\n";
  for (const TensorInfo& t : m.tensors)
    out += fmt::format("{:<{}}  {:<5} {:>10}  {}\n", t.name, width, t.dtype, format_bytes(t.bytes),
                       shape_text(t.shape));
  return out;
}

}  // namespace

Action define_inspect(Flags& flags) {
  auto o = std::make_shared<InspectOptions>();
  add_model_flags(flags, &o->config);
  flags.toggle("--json", "one JSON object", &o->json);
  add_engine_seed(flags, &o->config);
  add_engine_flags(flags, &o->config);
  flags.note("The memory plan is the one these flags would give.");
  return [o] {
    o->config.validate();
    o->config.model = locate_model(o->config.model);
    const ModelInspection inspection = inspect_model(o->config);
    write_stdout(o->json ? json_report(inspection) : text_report(inspection));
    return kExitOk;
  };
}

}  // namespace nanovllm::cli
