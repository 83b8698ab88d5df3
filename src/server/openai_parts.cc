#include "server/openai_parts.h"

#include <algorithm>
#include <random>

namespace nanovllm::openai {
namespace {

// A float widens to double exactly, and the shortest decimal of that double reads back as the same
// float.
double json_logprob(float logprob) {
  return logprob > -9999.0f ? static_cast<double>(logprob) : -9999.0;
}

int64_t count_characters(const std::string& utf8) {
  return std::count_if(utf8.begin(), utf8.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::string token_name(const ApiRequest& request, const ResponseContext& context, int32_t id) {
  return request.return_tokens_as_token_ids ? "token_id:" + std::to_string(id)
                                            : context.token_text(id);
}

Json chat_token(const ApiRequest& request, const ResponseContext& context, const TokenLogprob& t) {
  const std::string token = token_name(request, context, t.token_id);
  Json bytes = Json::array();
  for (const char c : token) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", token}, {"logprob", json_logprob(t.logprob)}, {"bytes", std::move(bytes)}};
}

}  // namespace

std::string random_digits() {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  std::string digits;
  for (int i = 0; i < 2; ++i)
    for (uint64_t bits = random(), digit = 0; digit < 16; ++digit, bits >>= 4)
      digits += "0123456789abcdef"[bits & 15];
  return digits;
}

Json header(const ResponseContext& context, const char* object) {
  return {{"id", context.id},
          {"object", object},
          {"created", context.created},
          {"model", context.model}};
}

Json finish_reason(const CompletionOutput& output, int num_calls) {
  if (output.finish_reason == FinishReason::kNone) return nullptr;
  if (output.finish_reason == FinishReason::kStop && num_calls > 0) return "tool_calls";
  return to_string(output.finish_reason);
}

Json tool_calls(const std::vector<ToolDelta::Call>& calls, bool chunk) {
  Json list = Json::array();
  for (const ToolDelta::Call& call : calls) {
    Json entry = Json::object(), function = Json::object();
    if (chunk) entry["index"] = call.index;
    if (!call.name.empty()) {
      entry["id"] = "call_" + random_digits();
      entry["type"] = "function";
      function["name"] = call.name;
    }
    function["arguments"] = call.arguments;
    entry["function"] = std::move(function);
    list.push_back(std::move(entry));
  }
  return list;
}

Json stop_reason(const ApiRequest& request, const CompletionOutput& output) {
  if (output.stop_reason.empty()) return nullptr;
  const auto& stop = request.params.stop;
  if (std::find(stop.begin(), stop.end(), output.stop_reason) != stop.end())
    return output.stop_reason;
  const bool digits = std::all_of(output.stop_reason.begin(), output.stop_reason.end(),
                                  [](char c) { return c >= '0' && c <= '9'; });
  if (digits && output.stop_reason.size() < 11) return std::stoll(output.stop_reason);
  return output.stop_reason;
}

void Usage::add(const RequestOutput& output) {
  prompt += static_cast<int64_t>(output.prompt_token_ids.size());
  cached += output.num_cached_tokens;
  for (const CompletionOutput& c : output.outputs)
    completion += static_cast<int64_t>(c.token_ids.size());
}

Json Usage::json() const {
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

std::string prompt_text(const ResponseContext& context, const Prompt& prompt) {
  return prompt.token_ids.empty() ? prompt.text : context.decode(prompt.token_ids);
}

CompletionLogprobs::CompletionLogprobs(const ApiRequest& request, const ResponseContext& context)
    : request_(request), context_(context) {
  take();
}

void CompletionLogprobs::add(int32_t id, const PositionLogprobs& position) {
  const std::string token = token_name(request_, context_, id);
  tokens_.push_back(token);
  offsets_.push_back(offset_);
  offset_ += count_characters(token);
  if (position.empty()) {  // the first prompt token has no prediction
    token_logprobs_.push_back(nullptr);
    top_.push_back(nullptr);
    return;
  }
  token_logprobs_.push_back(json_logprob(position[0].logprob));
  // The chosen token and the most likely N. Two tokens may read alike (pieces of a character); the
  // likelier one stays.
  Json top = Json::object();
  const size_t wanted = static_cast<size_t>(request_.top_logprobs) + 1;
  for (size_t i = 0; i < std::min(position.size(), wanted); ++i)
    top.emplace(token_name(request_, context_, position[i].token_id),
                json_logprob(position[i].logprob));
  top_.push_back(std::move(top));
}

void CompletionLogprobs::add_prompt(const RequestOutput& output) {
  for (size_t i = 0; i < output.prompt_token_ids.size(); ++i)
    add(output.prompt_token_ids[i],
        i < output.prompt_logprobs.size() ? output.prompt_logprobs[i] : PositionLogprobs{});
}

void CompletionLogprobs::add(const CompletionOutput& output, size_t from) {
  for (size_t i = from; i < output.token_ids.size(); ++i)
    add(output.token_ids[i], i < output.logprobs.size() ? output.logprobs[i] : PositionLogprobs{});
}

Json CompletionLogprobs::take() {
  Json body = {{"text_offset", std::move(offsets_)},
               {"token_logprobs", std::move(token_logprobs_)},
               {"tokens", std::move(tokens_)},
               {"top_logprobs", std::move(top_)}};
  offsets_ = token_logprobs_ = tokens_ = top_ = Json::array();
  return body;
}

Json chat_logprobs(const ApiRequest& request, const ResponseContext& context,
                   std::span<const PositionLogprobs> positions) {
  Json content = Json::array();
  for (const PositionLogprobs& position : positions) {
    if (position.empty()) continue;
    Json entry = chat_token(request, context, position[0]);
    Json top = Json::array();
    const size_t wanted = static_cast<size_t>(request.top_logprobs);
    for (size_t i = 1; i < position.size() && top.size() < wanted; ++i)
      top.push_back(chat_token(request, context, position[i]));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}};
}

Json prompt_logprobs(const ResponseContext& context, const RequestOutput& output) {
  Json list = Json::array();
  for (const PositionLogprobs& position : output.prompt_logprobs) {
    if (position.empty()) {
      list.push_back(nullptr);
      continue;
    }
    Json entries = Json::object();
    for (const TokenLogprob& t : position)
      entries[std::to_string(t.token_id)] = {{"logprob", json_logprob(t.logprob)},
                                             {"rank", t.rank},
                                             {"decoded_token", context.token_text(t.token_id)}};
    list.push_back(std::move(entries));
  }
  return list;
}

}  // namespace nanovllm::openai
