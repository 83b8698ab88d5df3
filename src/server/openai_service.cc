#include "server/openai_service.h"

#include <chrono>
#include <memory>
#include <random>

namespace nanovllm::openai {
namespace {

// A request whose prompts are being answered. Shared by the callbacks of its prompts.
struct Pending {
  ApiRequest request;
  ResponseContext context;
  std::function<void(const Json&)> done;
  std::vector<RequestOutput> outputs;
  size_t left = 0;
  bool dropped = false;  // refused or cancelled: no response

  void on_event(size_t prompt, const StreamEvent& event) {
    if (!event.request_finished || dropped) return;
    if (event.finish_reason == FinishReason::kAbort) {
      dropped = true;
      return;
    }
    outputs[prompt] = *event.output;
    if (--left > 0) return;
    done(request.endpoint == Endpoint::kChatCompletions
             ? chat_body(request, context, outputs[0])
             : completion_body(request, context, outputs));
  }
};

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

}  // namespace

std::string random_id(const std::string& prefix) {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  std::string id = prefix + "-";
  for (int i = 0; i < 2; ++i)
    for (uint64_t bits = random(), digit = 0; digit < 16; ++digit, bits >>= 4)
      id += "0123456789abcdef"[bits & 15];
  return id;
}

std::vector<Prompt> request_prompts(const LLM& llm, const ApiRequest& request) {
  if (request.endpoint == Endpoint::kCompletions) return request.prompts;
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
  return {Prompt{std::move(text), {}, request.add_special_tokens}};
}

Submitted submit(LLM& llm, ApiRequest request, const std::string& served_model,
                 std::function<void(const Json&)> done) {
  const std::vector<Prompt> prompts = request_prompts(llm, request);
  auto pending = std::make_shared<Pending>();
  const bool chat = request.endpoint == Endpoint::kChatCompletions,
             skip_special = request.params.skip_special_tokens;
  pending->context = {.id = random_id(chat ? "chatcmpl" : "cmpl"),
                      .created = std::chrono::duration_cast<std::chrono::seconds>(
                                     std::chrono::system_clock::now().time_since_epoch())
                                     .count(),
                      .model = served_model,
                      .token_text = [&llm](int32_t id) { return llm.token_text(id); },
                      .decode =
                          [&llm, skip_special](const std::vector<int32_t>& ids) {
                            return llm.info().has_tokenizer ? llm.decode(ids, skip_special)
                                                            : std::string();
                          }};
  pending->request = std::move(request);
  pending->done = std::move(done);
  pending->outputs.resize(prompts.size());
  pending->left = prompts.size();

  Submitted submitted;
  try {
    for (size_t i = 0; i < prompts.size(); ++i)
      submitted.request_ids.push_back(llm.add_request(
          prompts[i], pending->request.params,
          [pending, i](const StreamEvent& event) { pending->on_event(i, event); },
          pending->request.options));
  } catch (...) {
    pending->dropped = true;
    for (const uint64_t id : submitted.request_ids) llm.cancel(id);
    throw;
  }
  return submitted;
}

}  // namespace nanovllm::openai
