#include "server/openai_response.h"

#include <algorithm>
#include <set>

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

class Builder {
 public:
  Builder(const ApiRequest& request, const ResponseContext& context)
      : request_(request), context_(context) {}

  std::string token(int32_t id) const {
    return request_.return_tokens_as_token_ids ? "token_id:" + std::to_string(id)
                                               : context_.token_text(id);
  }

  Json header(const char* object) const {
    return {{"id", context_.id},
            {"object", object},
            {"created", context_.created},
            {"model", context_.model}};
  }

  Json finish_reason(const CompletionOutput& output) const {
    if (output.finish_reason == FinishReason::kNone) return nullptr;
    return to_string(output.finish_reason);
  }

  // The stop string, or the stop token's id as a number; null for EOS and length.
  Json stop_reason(const CompletionOutput& output) const {
    if (output.stop_reason.empty()) return nullptr;
    const auto& stop = request_.params.stop;
    if (std::find(stop.begin(), stop.end(), output.stop_reason) != stop.end())
      return output.stop_reason;
    const bool digits = std::all_of(output.stop_reason.begin(), output.stop_reason.end(),
                                    [](char c) { return c >= '0' && c <= '9'; });
    if (digits && output.stop_reason.size() < 11) return std::stoll(output.stop_reason);
    return output.stop_reason;
  }

  // [null, {"<id>": {"logprob", "rank", "decoded_token"}}, ...]
  Json prompt_logprobs(const RequestOutput& output) const {
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
                                               {"decoded_token", context_.token_text(t.token_id)}};
      list.push_back(std::move(entries));
    }
    return list;
  }

  const ApiRequest& request_;
  const ResponseContext& context_;
};

// OpenAI's completions logprobs object, grown a token at a time.
class CompletionLogprobs {
 public:
  explicit CompletionLogprobs(const Builder& builder) : builder_(builder) {}

  void add(int32_t id, const PositionLogprobs& position) {
    const std::string token = builder_.token(id);
    tokens_.push_back(token);
    offsets_.push_back(offset_);
    offset_ += count_characters(token);
    if (position.empty()) {  // the first prompt token has no prediction
      token_logprobs_.push_back(nullptr);
      top_.push_back(nullptr);
      return;
    }
    token_logprobs_.push_back(json_logprob(position[0].logprob));
    // The chosen token and the most likely N. Two tokens may read alike (pieces of a character);
    // the likelier one stays.
    Json top = Json::object();
    const size_t wanted = static_cast<size_t>(builder_.request_.top_logprobs) + 1;
    for (size_t i = 0; i < std::min(position.size(), wanted); ++i)
      top.emplace(builder_.token(position[i].token_id), json_logprob(position[i].logprob));
    top_.push_back(std::move(top));
  }

  Json body() && {
    return {{"text_offset", std::move(offsets_)},
            {"token_logprobs", std::move(token_logprobs_)},
            {"tokens", std::move(tokens_)},
            {"top_logprobs", std::move(top_)}};
  }

 private:
  const Builder& builder_;
  Json tokens_ = Json::array(), token_logprobs_ = Json::array(), top_ = Json::array(),
       offsets_ = Json::array();
  int64_t offset_ = 0;
};

Json completion_logprobs(const Builder& builder, const RequestOutput& output,
                         const CompletionOutput& completion) {
  const ApiRequest& request = builder.request_;
  if (!request.params.logprobs) return nullptr;
  CompletionLogprobs logprobs(builder);
  if (request.echo) {
    for (size_t i = 0; i < output.prompt_token_ids.size(); ++i)
      logprobs.add(output.prompt_token_ids[i], i < output.prompt_logprobs.size()
                                                   ? output.prompt_logprobs[i]
                                                   : PositionLogprobs{});
  }
  for (size_t i = 0; i < completion.token_ids.size(); ++i)
    logprobs.add(completion.token_ids[i],
                 i < completion.logprobs.size() ? completion.logprobs[i] : PositionLogprobs{});
  return std::move(logprobs).body();
}

Json chat_token(const Builder& builder, const TokenLogprob& t) {
  const std::string token = builder.token(t.token_id);
  Json bytes = Json::array();
  for (const char c : token) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", token}, {"logprob", json_logprob(t.logprob)}, {"bytes", std::move(bytes)}};
}

Json chat_logprobs(const Builder& builder, const CompletionOutput& completion) {
  if (!builder.request_.params.logprobs) return nullptr;
  Json content = Json::array();
  for (const PositionLogprobs& position : completion.logprobs) {
    if (position.empty()) continue;
    Json entry = chat_token(builder, position[0]);
    Json top = Json::array();
    const size_t wanted = static_cast<size_t>(builder.request_.top_logprobs);
    for (size_t i = 1; i < position.size() && top.size() < wanted; ++i)
      top.push_back(chat_token(builder, position[i]));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}};
}

Json usage(std::span<const RequestOutput> outputs) {
  int64_t prompt = 0, completion = 0, cached = 0;
  for (const RequestOutput& output : outputs) {
    prompt += static_cast<int64_t>(output.prompt_token_ids.size());
    cached += output.num_cached_tokens;
    for (const CompletionOutput& c : output.outputs)
      completion += static_cast<int64_t>(c.token_ids.size());
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

}  // namespace

Json completion_body(const ApiRequest& request, const ResponseContext& context,
                     std::span<const RequestOutput> outputs) {
  const Builder builder(request, context);
  Json choices = Json::array();
  for (size_t p = 0; p < outputs.size(); ++p) {
    const RequestOutput& output = outputs[p];
    std::string prompt_text;
    if (request.echo) {
      const Prompt& prompt = request.prompts[p];
      prompt_text = prompt.token_ids.empty() ? prompt.text : context.decode(prompt.token_ids);
    }
    for (const CompletionOutput& completion : output.outputs) {
      Json choice = {{"index", static_cast<int64_t>(p) * request.params.n + completion.index},
                     {"text", prompt_text + completion.text},
                     {"logprobs", completion_logprobs(builder, output, completion)},
                     {"finish_reason", builder.finish_reason(completion)},
                     {"stop_reason", builder.stop_reason(completion)}};
      if (request.return_prompt_logprobs)
        choice["prompt_logprobs"] = builder.prompt_logprobs(output);
      if (request.return_token_ids) {
        choice["token_ids"] = completion.token_ids;
        choice["prompt_token_ids"] = output.prompt_token_ids;
      }
      choices.push_back(std::move(choice));
    }
  }
  Json body = builder.header("text_completion");
  body["choices"] = std::move(choices);
  body["usage"] = usage(outputs);
  return body;
}

Json chat_body(const ApiRequest& request, const ResponseContext& context,
               const RequestOutput& output) {
  const Builder builder(request, context);
  Json choices = Json::array();
  for (const CompletionOutput& completion : output.outputs) {
    Json choice = {
        {"index", completion.index},
        {"message", {{"role", "assistant"}, {"content", completion.text}, {"refusal", nullptr}}},
        {"logprobs", chat_logprobs(builder, completion)},
        {"finish_reason", builder.finish_reason(completion)},
        {"stop_reason", builder.stop_reason(completion)}};
    if (request.return_token_ids) choice["token_ids"] = completion.token_ids;
    choices.push_back(std::move(choice));
  }
  Json body = builder.header("chat.completion");
  body["choices"] = std::move(choices);
  body["usage"] = usage({&output, 1});
  if (request.return_prompt_logprobs) body["prompt_logprobs"] = builder.prompt_logprobs(output);
  if (request.return_token_ids) body["prompt_token_ids"] = output.prompt_token_ids;
  return body;
}

Json error_body(const std::string& message, const std::string& param, int status) {
  const char* type = status == 404  ? "NotFoundError"
                     : status < 500 ? "BadRequestError"
                                    : "InternalServerError";
  Json error = {{"message", message}, {"type", type}, {"param", nullptr}, {"code", status}};
  if (!param.empty()) error["param"] = param;
  return {{"error", std::move(error)}};
}

Json error_body(const Error& error, int status) {
  const bool field = dynamic_cast<const InvalidArgument*>(&error) && error.where() != "body";
  return error_body(error.what(), field ? error.where() : "", status);
}

}  // namespace nanovllm::openai
