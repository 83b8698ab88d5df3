#include "server/openai_stream.h"

#include <utility>

namespace nanovllm::openai {
namespace {

// A request that wants its prompt scored has n sequences; one that found the prompt in the cache
// may be ahead of the one that scores it.
bool prompt_is_scored(const ApiRequest& request, const RequestOutput& output) {
  if (!request.params.prompt_logprobs) return true;
  return output.prompt_logprobs.size() == output.prompt_token_ids.size() &&
         (output.prompt_logprobs.size() < 2 || !output.prompt_logprobs.back().empty());
}

}  // namespace

std::string sse(const Json& data) { return "data: " + dump(data) + "\n\n"; }

ChunkStream::ChunkStream(const ApiRequest& request, const ResponseContext& context,
                         size_t num_prompts)
    : request_(request), context_(context), prompts_left_(num_prompts) {
  prefix_ =
      dump(header(context_, request.endpoint == Endpoint::kChatCompletions ? "chat.completion.chunk"
                                                                           : "text_completion"));
  prefix_.back() = ',';  // it goes on
  const size_t n = num_prompts * static_cast<size_t>(request.params.n);
  choices_.reserve(n);
  for (size_t i = 0; i < n; ++i)
    choices_.push_back({.logprobs = CompletionLogprobs(request_, context_),
                        .calls = ToolCallParser(request_.tool_format, request_.tools)});
}

std::string ChunkStream::on_event(size_t prompt, const StreamEvent& event) {
  const RequestOutput& output = *event.output;
  if (!prompt_is_scored(request_, output)) return "";
  if (request_.params.prompt_logprobs && request_.params.n > 1) {
    for (const CompletionOutput& completion : output.outputs)  // those that had to wait too
      add_chunks(prompt, output, completion);
  } else {
    add_chunks(prompt, output, output.outputs[static_cast<size_t>(event.index)]);
  }
  if (event.request_finished) {
    usage_.add(output);
    if (--prompts_left_ == 0) {
      if (request_.include_usage) send({{"choices", Json::array()}, {"usage", usage_.json()}});
      out_ += "data: [DONE]\n\n";
    }
  }
  return std::exchange(out_, "");
}

void ChunkStream::send(const Json& body) {
  out_.append("data: ").append(prefix_).append(dump(body), 1, std::string::npos).append("\n\n");
}

void ChunkStream::add_chunks(size_t prompt, const RequestOutput& output,
                             const CompletionOutput& completion) {
  Choice& choice = choices_[prompt * static_cast<size_t>(request_.params.n) +
                            static_cast<size_t>(completion.index)];
  const bool ends = completion.finish_reason != FinishReason::kNone;
  const bool news = completion.text.size() > choice.text || (ends && !choice.finished) ||
                    (completion.token_ids.size() > choice.tokens &&
                     (request_.params.logprobs || request_.return_token_ids));
  if (!news) return;
  const bool first = !std::exchange(choice.started, true);
  if (request_.endpoint == Endpoint::kChatCompletions) {
    if (first) {
      Json role = {{"index", completion.index},
                   {"delta", {{"role", "assistant"}, {"content", ""}}},
                   {"logprobs", nullptr},
                   {"finish_reason", nullptr}};
      add(std::move(role), output, completion, true);
    }
    add_chat_chunk(choice, output, completion);
  } else {
    if (first && request_.echo && request_.params.logprobs) choice.logprobs.add_prompt(output);
    Json chunk = completion_choice(choice, prompt, output, completion);
    if (first && request_.echo)
      chunk["text"] = prompt_text(context_, request_.prompts[prompt]) +
                      chunk["text"].get_ref<const std::string&>();
    if (first && request_.return_prompt_logprobs)
      chunk["prompt_logprobs"] = prompt_logprobs(context_, output);
    if (first && request_.return_token_ids) chunk["prompt_token_ids"] = output.prompt_token_ids;
    add(std::move(chunk), output, completion, first);
  }
  choice.text = completion.text.size();
  choice.tokens = completion.token_ids.size();
  choice.finished = ends;
}

void ChunkStream::add_chat_chunk(Choice& choice, const RequestOutput& output,
                                 const CompletionOutput& completion) {
  ToolDelta said = choice.calls.add(std::string_view(completion.text).substr(choice.text));
  const bool ends = completion.finish_reason != FinishReason::kNone;
  if (ends) said.content += choice.calls.finish().content;
  const bool with_tokens = request_.params.logprobs || request_.return_token_ids;
  if (said.content.empty() && said.calls.empty() && !ends && !with_tokens) return;  // held back
  Json delta = Json::object();
  if (!said.content.empty() || said.calls.empty()) delta["content"] = said.content;
  if (!said.calls.empty()) delta["tool_calls"] = tool_calls(said.calls, /*chunk=*/true);
  add(chat_choice(choice, completion, std::move(delta)), output, completion, false);
}

Json ChunkStream::completion_choice(Choice& choice, size_t prompt, const RequestOutput&,
                                    const CompletionOutput& completion) {
  Json logprobs;
  if (request_.params.logprobs) {
    choice.logprobs.add(completion, choice.tokens);
    logprobs = choice.logprobs.take();
  }
  Json chunk = {{"index", static_cast<int64_t>(prompt) * request_.params.n + completion.index},
                {"text", completion.text.substr(choice.text)},
                {"logprobs", std::move(logprobs)},
                {"finish_reason", finish_reason(completion)},
                {"stop_reason", stop_reason(request_, completion)}};
  if (request_.return_token_ids)
    chunk["token_ids"] = std::span(completion.token_ids).subspan(choice.tokens);
  return chunk;
}

Json ChunkStream::chat_choice(Choice& choice, const CompletionOutput& completion, Json delta) {
  Json logprobs;
  if (request_.params.logprobs)
    logprobs =
        chat_logprobs(request_, context_, std::span(completion.logprobs).subspan(choice.tokens));
  Json chunk = {{"index", completion.index},
                {"delta", std::move(delta)},
                {"logprobs", std::move(logprobs)},
                {"finish_reason", finish_reason(completion, choice.calls.num_calls())}};
  if (completion.finish_reason != FinishReason::kNone)
    chunk["stop_reason"] = stop_reason(request_, completion);
  if (request_.return_token_ids)
    chunk["token_ids"] = std::span(completion.token_ids).subspan(choice.tokens);
  return chunk;
}

void ChunkStream::add(Json chunk_choice, const RequestOutput& output,
                      const CompletionOutput& completion, bool first) {
  const bool chat = request_.endpoint == Endpoint::kChatCompletions;
  Json body = {{"choices", Json::array()}};
  body["choices"].push_back(std::move(chunk_choice));
  if (chat && first && request_.return_token_ids)
    body["prompt_token_ids"] = output.prompt_token_ids;
  if (chat && first && request_.return_prompt_logprobs)
    body["prompt_logprobs"] = prompt_logprobs(context_, output);
  if (request_.continuous_usage)
    body["usage"] = Usage{.prompt = std::ssize(output.prompt_token_ids),
                          .completion = std::ssize(completion.token_ids),
                          .cached = output.num_cached_tokens}
                        .json();
  else if (request_.include_usage)
    body["usage"] = nullptr;
  send(body);
}

}  // namespace nanovllm::openai
