#include "server/openai_service.h"

#include <chrono>
#include <memory>

namespace nanovllm::openai {
namespace {

std::string trim(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

// The rendered chat up to the end of its last message, for the model to go on with it: what follows
// (an end-of-turn marker) is cut. A template may strip the message's spaces, so the stripped text
// is what is looked for.
std::string cut_after_final_message(std::string rendered, const Json& messages) {
  const Json& content = messages.back()["content"];
  const std::string text = content.get<std::string>(), core = trim(text);
  const size_t at = rendered.rfind(core);
  if (core.empty() || at == std::string::npos)
    throw InvalidArgument("continue_final_message",
                          "the chat template does not show the last message's text");
  const std::string tail = text.substr(text.find_first_not_of(" \t\r\n"));
  rendered.resize(at + (rendered.compare(at, tail.size(), tail) == 0 ? tail.size() : core.size()));
  return rendered;
}

std::string render_chat(const LLM& llm, const ApiRequest& request) {
  std::string text;
  try {
    text = llm.apply_chat_template(dump(request.messages), request.add_generation_prompt,
                                   dump(request.template_options));
  } catch (const Error& e) {  // the model has no template, or the template raised an exception
                              // about these messages
    throw InvalidArgument("messages", e.reason());
  }
  if (request.continue_final_message)
    text = cut_after_final_message(std::move(text), request.messages);
  return text;
}

}  // namespace

ResponseContext make_context(const LLM& llm, const ApiRequest& request, const std::string& model,
                             const std::string& digits) {
  const bool chat = request.endpoint == Endpoint::kChatCompletions,
             skip_special = request.params.skip_special_tokens;
  return {.id = (chat ? "chatcmpl-" : "cmpl-") + digits,
          .created = std::chrono::duration_cast<std::chrono::seconds>(
                         std::chrono::system_clock::now().time_since_epoch())
                         .count(),
          .model = model,
          .token_text = [&llm](int32_t id) { return llm.token_text(id); },
          .decode =
              [&llm, skip_special](const std::vector<int32_t>& ids) {
                return llm.info().has_tokenizer ? llm.decode(ids, skip_special) : std::string();
              }};
}

bool needs_compiling(const ApiRequest& request) {
  return request.params.structured_outputs.enabled() ||
         request.tools.choice == ToolRequest::Choice::kRequired;
}

void prepare(const LLM& llm, ApiRequest& request) {
  const ToolRequest& tools = request.tools;
  StructuredOutputs& outputs = request.params.structured_outputs;
  std::string field = request.structured_field;
  if (!tools.tools.empty() && tools.choice != ToolRequest::Choice::kNone) {
    request.tool_format = detect_tool_format(llm.chat_template());
    if (request.tool_format == ToolFormat::kNone)
      throw InvalidArgument("tools",
                            "are not supported: the model's chat template has none, or writes "
                            "calls in another way than Qwen2.5, Qwen3 and Llama 3.1 do");
    if (tools.choice == ToolRequest::Choice::kRequired) {
      outputs = required_calls(request.tool_format, tools);
      field = "tools";
    }
  }
  try {
    llm.compile(&outputs);
  } catch (const InvalidArgument& e) {
    throw InvalidArgument(field.empty() ? e.where() : field, e.reason());
  }
}

std::vector<Prompt> request_prompts(const LLM& llm, const ApiRequest& request) {
  std::vector<Prompt> prompts = request.prompts;
  if (request.endpoint == Endpoint::kChatCompletions)
    prompts = {Prompt{render_chat(llm, request), {}, request.add_special_tokens}};
  for (Prompt& prompt : prompts) {
    if (!prompt.token_ids.empty() || prompt.text.empty()) continue;
    const char* const field =
        request.endpoint == Endpoint::kChatCompletions ? "messages" : "prompt";
    try {
      prompt.token_ids = llm.encode(prompt.text, prompt.add_special_tokens);
    } catch (const Error& e) {  // no tokenizer, or a text that its pattern gives up on
      throw InvalidArgument(field, e.reason());
    }
    prompt.text.clear();
  }
  return prompts;
}

void check_prompts(const LLM& llm, const ApiRequest& request, const std::vector<Prompt>& prompts) {
  try {
    for (const Prompt& prompt : prompts) llm.check_request(prompt, request.params);
  } catch (const InvalidArgument& e) {
    const bool chat = request.endpoint == Endpoint::kChatCompletions;
    throw InvalidArgument(chat && e.where() == "prompt" ? "messages" : e.where(), e.reason());
  }
}

std::vector<uint64_t> submit(LLM& llm, const std::vector<Prompt>& prompts,
                             const ApiRequest& request, EventCallback on_event) {
  const auto shared = std::make_shared<EventCallback>(std::move(on_event));
  std::vector<uint64_t> ids;
  try {
    for (size_t i = 0; i < prompts.size(); ++i)
      ids.push_back(llm.add_request(
          prompts[i], request.params,
          [shared, i](const StreamEvent& event) {
            if (*shared) (*shared)(i, event);
          },
          request.options));
  } catch (...) {
    *shared = nullptr;  // nobody hears of those that are taken back
    for (const uint64_t id : ids) llm.cancel(id);
    throw;
  }
  return ids;
}

bool Collector::on_event(size_t prompt, const StreamEvent& event) {
  if (!event.request_finished) return false;
  outputs_[prompt] = *event.output;
  return --left_ == 0;
}

Json Collector::body(const ApiRequest& request, const ResponseContext& context) const {
  return request.endpoint == Endpoint::kChatCompletions
             ? chat_body(request, context, outputs_[0])
             : completion_body(request, context, outputs_);
}

std::vector<uint64_t> submit(LLM& llm, ApiRequest request, const std::string& model,
                             std::function<void(const Json&)> done) {
  struct Pending {
    ApiRequest request;
    ResponseContext context;
    std::function<void(const Json&)> done;
    Collector collector;
  };
  prepare(llm, request);
  const std::vector<Prompt> prompts = request_prompts(llm, request);
  check_prompts(llm, request, prompts);
  ResponseContext context = make_context(llm, request, model, random_digits());
  auto pending = std::make_shared<Pending>(
      Pending{std::move(request), std::move(context), std::move(done), Collector(prompts.size())});
  return submit(llm, prompts, pending->request, [pending](size_t prompt, const StreamEvent& event) {
    if (event.finish_reason == FinishReason::kAbort) return;
    if (pending->collector.on_event(prompt, event))
      pending->done(pending->collector.body(pending->request, pending->context));
  });
}

}  // namespace nanovllm::openai
