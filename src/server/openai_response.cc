#include "server/openai_response.h"

#include "server/openai_parts.h"

namespace nanovllm::openai {
namespace {

Json completion_logprobs(const ApiRequest& request, const ResponseContext& context,
                         const RequestOutput& output, const CompletionOutput& completion) {
  if (!request.params.logprobs) return nullptr;
  CompletionLogprobs logprobs(request, context);
  if (request.echo) logprobs.add_prompt(output);
  logprobs.add(completion, 0);
  return logprobs.take();
}

Json usage(std::span<const RequestOutput> outputs) {
  Usage usage;
  for (const RequestOutput& output : outputs) usage.add(output);
  return usage.json();
}

}  // namespace

Json completion_body(const ApiRequest& request, const ResponseContext& context,
                     std::span<const RequestOutput> outputs) {
  Json choices = Json::array();
  for (size_t p = 0; p < outputs.size(); ++p) {
    const RequestOutput& output = outputs[p];
    const std::string echoed = request.echo ? prompt_text(context, request.prompts[p]) : "";
    for (const CompletionOutput& completion : output.outputs) {
      Json choice = {{"index", static_cast<int64_t>(p) * request.params.n + completion.index},
                     {"text", echoed + completion.text},
                     {"logprobs", completion_logprobs(request, context, output, completion)},
                     {"finish_reason", finish_reason(completion)},
                     {"stop_reason", stop_reason(request, completion)}};
      if (request.return_prompt_logprobs)
        choice["prompt_logprobs"] = prompt_logprobs(context, output);
      if (request.return_token_ids) {
        choice["token_ids"] = completion.token_ids;
        choice["prompt_token_ids"] = output.prompt_token_ids;
      }
      choices.push_back(std::move(choice));
    }
  }
  Json body = header(context, "text_completion");
  body["choices"] = std::move(choices);
  body["usage"] = usage(outputs);
  return body;
}

Json chat_body(const ApiRequest& request, const ResponseContext& context,
               const RequestOutput& output) {
  Json choices = Json::array();
  for (const CompletionOutput& completion : output.outputs) {
    ToolCallParser parser(request.tool_format, request.tools);
    ToolDelta said = parser.add(completion.text);
    said.content += parser.finish().content;
    Json message = {{"role", "assistant"}, {"content", said.content}, {"refusal", nullptr}};
    if (!said.calls.empty()) {
      if (said.content.empty()) message["content"] = nullptr;
      message["tool_calls"] = tool_calls(said.calls, /*chunk=*/false);
    }
    Json choice = {
        {"index", completion.index},
        {"message", std::move(message)},
        {"logprobs", request.params.logprobs ? chat_logprobs(request, context, completion.logprobs)
                                             : Json(nullptr)},
        {"finish_reason", finish_reason(completion, parser.num_calls())},
        {"stop_reason", stop_reason(request, completion)}};
    if (request.return_token_ids) choice["token_ids"] = completion.token_ids;
    choices.push_back(std::move(choice));
  }
  Json body = header(context, "chat.completion");
  body["choices"] = std::move(choices);
  body["usage"] = usage({&output, 1});
  if (request.return_prompt_logprobs) body["prompt_logprobs"] = prompt_logprobs(context, output);
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
