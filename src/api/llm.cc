#include "nanovllm/llm.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "api/load.h"
#include "api/step_recorder.h"
#include "backend/make_backend.h"
#include "engine/llm_engine.h"
#include "model/agreement.h"
#include "model/ranks.h"
#include "model/worker.h"
#include "nanovllm/inspect.h"
#include "structured/grammar_compiler.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace nanovllm {
namespace {

using Json = nlohmann::ordered_json;

ModelInfo describe(const Checkpoint& checkpoint, const ModelConfig& c, const EngineConfig& config,
                   const Tokenizer* tokenizer) {
  ModelInfo info;
  info.name = std::filesystem::path(config.model).filename().string();
  if (info.name.empty())
    info.name = std::filesystem::path(config.model).parent_path().filename().string();
  info.architecture = c.architecture;
  // Under the type that holds the most elements.
  std::map<std::string, int64_t> elements;
  for (const TensorView& t : checkpoint.all_tensors()) {
    elements[dtype_name(t.dtype)] += t.num_elements();
    info.num_parameters += t.num_elements();
  }
  for (const auto& [name, n] : elements)
    if (n > elements[info.weight_dtype]) info.weight_dtype = name;
  info.kv_cache_dtype = config.kv_cache_dtype == "auto" ? "bfloat16" : config.kv_cache_dtype;
  info.num_layers = c.num_layers;
  info.hidden_size = c.hidden_size;
  info.num_heads = c.num_heads;
  info.num_kv_heads = c.num_kv_heads;
  info.head_dim = c.head_dim;
  info.vocab_size = c.vocab_size;
  info.max_position_embeddings = c.max_position_embeddings;
  info.threads = static_cast<int>(config.threads);
  info.eos_token_ids = c.eos_token_ids;
  info.bos_token_id = c.bos_token_id;
  info.has_tokenizer = tokenizer != nullptr;
  info.has_chat_template = tokenizer && !tokenizer->chat_template().empty();
  return info;
}

std::string backend_name(const Backend& backend, int64_t ranks) {
  return ranks == 1 ? backend.name() : std::to_string(ranks) + " ranks of " + backend.name();
}

}  // namespace

OpenModel open_model(const EngineConfig& config, int64_t ranks_here, Communicator& ranks) {
  OpenModel m;
  m.config = config;
  m.config.validate();
  m.config.threads = threads_of_rank(config.threads, ranks_here);
  BackendChoice choice = make_backend(m.config);
  m.backend = std::move(choice.backend);
  m.config.device = choice.device;
  m.checkpoint = Checkpoint::open(config.model);
  m.plan = plan_memory(*m.checkpoint, *m.backend, &m.config,
                       least_free_bytes(ranks, m.backend->device_memory()));
  m.tokenizer = m.checkpoint->gguf() ? Tokenizer::from_gguf(*m.checkpoint->gguf())
                                     : Tokenizer::from_folder(config.model);
  m.model = m.checkpoint->config();
  m.generation_defaults = m.checkpoint->generation_config().defaults;
  // The tokenizer's EOS ends a text too; ids that the model cannot produce end nothing.
  if (m.tokenizer)
    if (const auto eos = m.tokenizer->eos_token_id();
        eos && std::ranges::find(m.model.eos_token_ids, *eos) == m.model.eos_token_ids.end())
      m.model.eos_token_ids.push_back(*eos);
  std::erase_if(m.model.eos_token_ids, [&](int32_t id) { return id >= m.model.vocab_size; });
  m.info = describe(*m.checkpoint, m.model, m.config, m.tokenizer.get());
  m.info.backend = backend_name(*m.backend, m.config.tensor_parallel_size);
  m.info.backend_note = choice.note;
  return m;
}

namespace {

// All ranks open the same model, or an Error is thrown on all; then they load it.
OpenModel open_on_all(const EngineConfig& config, Communicator& ranks) {
  OpenModel m;
  agree(ranks, [&] {
    m = open_model(config, ranks.ranks_here(), ranks);
    // A batch that travels to other ranks holds tokens, not the places where rank 0 will have them.
    if (ranks.size() > 1) m.config.async_scheduling = false;
    return ranks.size() == 1 ? "" : fingerprint(*m.checkpoint, m.config, m.plan);
  });
  return m;
}

std::unique_ptr<ModelRunner> load_on_all(OpenModel& m, Communicator& ranks) {
  std::unique_ptr<ModelRunner> runner;
  agree(ranks, [&] {
    runner =
        std::make_unique<ModelRunner>(std::move(m.backend), *m.checkpoint, m.config, m.plan, ranks);
    return std::string();
  });
  return runner;
}

}  // namespace

ModelInspection inspect_model(const EngineConfig& config) {
  SingleRank single;
  const OpenModel m = open_model(config, config.tensor_parallel_size, single);
  ModelInspection result{.info = m.info, .plan = m.plan};
  for (const TensorView& t : m.checkpoint->all_tensors()) {
    result.tensors.push_back(
        {t.name, dtype_name(t.dtype), t.shape, static_cast<int64_t>(t.data.size())});
    result.file_bytes += static_cast<int64_t>(t.data.size());
  }
  result.tokenizer = m.tokenizer ? std::to_string(m.tokenizer->vocab_size()) + " tokens" : "none";
  return result;
}

struct LLM::Impl {
  explicit Impl(const EngineConfig& config)
      : ranks(config),
        model(open_on_all(config, ranks.communicator())),
        runner(load_on_all(model, ranks.communicator())),
        engine(model.config, model.plan, model.model, *runner, model.tokenizer.get()) {
    model.checkpoint.reset();  // the weights are packed; the files are not needed any more
    model.plan.weights_bytes = runner->weight_bytes();
    if (model.tokenizer)
      grammar_compiler = std::make_unique<GrammarCompiler>(
          *model.tokenizer, model.model.vocab_size, model.model.eos_token_ids,
          RehearsalLimits{.seconds = model.config.structured_outputs_timeout});
    if (model.info.has_chat_template)
      chat_template = std::make_unique<ChatTemplate>(model.tokenizer->chat_template(),
                                                     model.info.name + ": chat template");
  }
  const Tokenizer& tokenizer() const {
    if (!model.tokenizer)
      throw Error(model.info.name, "has no tokenizer, so it takes and gives token ids only");
    return *model.tokenizer;
  }

  Ranks ranks;
  OpenModel model;
  std::unique_ptr<ModelRunner> runner;
  LLMEngine engine;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  std::unique_ptr<ChatTemplate> chat_template;
  std::unique_ptr<GrammarCompiler> grammar_compiler;  // null without a tokenizer
};

LLM::LLM(const EngineConfig& config) {
  EngineConfig resolved = config;
  resolve_ranks(&resolved);
  impl_ = std::make_unique<Impl>(resolved);
}
LLM::~LLM() = default;
LLM::LLM(LLM&&) noexcept = default;
LLM& LLM::operator=(LLM&&) noexcept = default;

std::vector<int32_t> LLM::token_ids(const Prompt& prompt, const SamplingParams& params) const {
  if (!params.stop.empty() && !impl_->model.tokenizer)
    throw InvalidArgument("stop", "needs a tokenizer, which this model does not have");
  if (!prompt.token_ids.empty() || prompt.text.empty()) return prompt.token_ids;
  return encode(prompt.text, prompt.add_special_tokens);
}

void LLM::check_request(const Prompt& prompt, const SamplingParams& params) const {
  impl_->engine.check_request(token_ids(prompt, params), params);
}

uint64_t LLM::add_request(const Prompt& prompt, const SamplingParams& params,
                          StreamCallback callback, const RequestOptions& options) {
  std::vector<int32_t> ids = token_ids(prompt, params);
  SamplingParams ready = params;
  compile(&ready.structured_outputs);
  return impl_->engine.add_request(std::move(ids), std::move(ready), std::move(callback), options);
}

void LLM::compile(StructuredOutputs* outputs) const {
  outputs->validate();
  if (!outputs->enabled()) return;
  if (!impl_->grammar_compiler)
    throw InvalidArgument("structured_outputs",
                          "needs a tokenizer, which this model does not have");
  if (!outputs->compiled || !impl_->grammar_compiler->made(*outputs->compiled))
    outputs->compiled = impl_->grammar_compiler->compile(*outputs);
}

void LLM::cancel(uint64_t request_id) { impl_->engine.cancel(request_id); }
bool LLM::step(const std::atomic<bool>* give_up) { return impl_->engine.step(give_up); }
bool LLM::has_unfinished_requests() const { return impl_->engine.has_unfinished_requests(); }

std::vector<RequestOutput> LLM::generate(
    std::span<const Prompt> prompts, std::span<const SamplingParams> params,
    const std::function<bool(const EngineStats&)>& on_progress) {
  if (params.size() != 1 && params.size() != prompts.size())
    throw InvalidArgument("sampling_params", "holds " + std::to_string(params.size()) + " for " +
                                                 std::to_string(prompts.size()) + " prompts");
  std::vector<RequestOutput> outputs(prompts.size());
  std::set<uint64_t> open;
  auto cancel_all = [&] {
    const std::set<uint64_t> ids = open;
    for (uint64_t id : ids) cancel(id);
  };
  try {
    for (size_t i = 0; i < prompts.size(); ++i)
      open.insert(add_request(prompts[i], params[params.size() == 1 ? 0 : i],
                              [&, i](const StreamEvent& event) {
                                if (!event.request_finished) return;
                                outputs[i] = *event.output;
                                open.erase(event.request_id);
                              }));
    while (!open.empty()) {
      step();
      if (on_progress && !on_progress(stats())) cancel_all();
    }
  } catch (...) {
    cancel_all();
    throw;
  }
  return outputs;
}

void LLM::set_step_observer(StepObserver observer) {
  LLMEngine& engine = impl_->engine;
  if (!observer) return engine.set_step_hook(nullptr);
  auto recorder = std::make_shared<StepRecorder>(engine, impl_->model.config.max_num_batched_tokens,
                                                 impl_->start, std::move(observer));
  engine.set_step_hook([recorder](const Batch& batch, auto scheduled, const StepSeconds& before) {
    recorder->record(batch, scheduled, before);
  });
}

StepTrace LLM::snapshot() const {
  return StepRecorder(impl_->engine, impl_->model.config.max_num_batched_tokens, impl_->start,
                      nullptr)
      .snapshot();
}

std::vector<int32_t> LLM::encode(std::string_view text, bool add_special_tokens) const {
  return impl_->tokenizer().encode(text, add_special_tokens);
}

std::string LLM::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  return impl_->tokenizer().decode(ids, skip_special_tokens);
}

std::string LLM::token_text(int32_t id) const {
  if (!impl_->model.tokenizer) return "token_id:" + std::to_string(id);
  return impl_->model.tokenizer->decode({&id, 1}, false);
}

std::string LLM::apply_chat_template(std::string_view messages_json, bool add_generation_prompt,
                                     std::string_view options_json) const {
  const Tokenizer& tokenizer = impl_->tokenizer();
  if (!impl_->chat_template) throw Error(impl_->model.info.name, "has no chat template");
  Json context = Json::object();
  auto special = [&](const char* name, std::optional<int32_t> id) {
    if (id) context[name] = tokenizer.id_to_token(*id);
  };
  special("bos_token", tokenizer.bos_token_id());
  special("eos_token", tokenizer.eos_token_id());
  Json messages = Json::parse(messages_json, nullptr, false);
  if (messages.is_discarded() || !messages.is_array())
    throw InvalidArgument("messages", "is not a JSON array");
  const Json options = Json::parse(options_json, nullptr, false);
  if (options.is_discarded() || !options.is_object())
    throw InvalidArgument("chat_template_kwargs", "is not a JSON object");
  context["messages"] = std::move(messages);
  context["tools"] = nullptr;
  context["documents"] = nullptr;
  context["add_generation_prompt"] = add_generation_prompt;
  for (const auto& [key, value] : options.items()) context[key] = value;
  return impl_->chat_template->render(context);
}

const std::string& LLM::chat_template() const {
  static const std::string kNone;
  return impl_->model.tokenizer ? impl_->model.tokenizer->chat_template() : kNone;
}

const EngineConfig& LLM::config() const { return impl_->model.config; }
const ModelInfo& LLM::info() const { return impl_->model.info; }
const MemoryPlan& LLM::memory_plan() const { return impl_->model.plan; }
const GenerationDefaults& LLM::generation_defaults() const {
  return impl_->model.generation_defaults;
}
EngineStats LLM::stats() const { return impl_->engine.stats(); }
void LLM::check_integrity() const { impl_->engine.check_integrity(); }

}  // namespace nanovllm
