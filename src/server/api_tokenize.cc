// /tokenize and /detokenize, in vLLM's shapes.
#include "server/api_reply.h"
#include "server/api_server.h"

namespace nanovllm {

using openai::Json;

Json ApiServer::tokenize(const Json& body) const {
  const openai::Fields fields(body, "body");
  if (const auto model = fields.string("model")) check_model(*model);
  if (!llm_.info().has_tokenizer) throw InvalidArgument("model", "has no tokenizer");
  const bool with_strings = fields.boolean("return_token_strs").value_or(false);
  std::vector<int32_t> ids;
  if (fields.get("messages")) {
    openai::ApiRequest request;
    request.endpoint = openai::Endpoint::kChatCompletions;
    openai::parse_chat_prompt(fields, request);
    fields.refuse_others();
    ids = openai::request_prompts(llm_, request)[0].token_ids;
  } else {
    const auto prompt = fields.string("prompt");
    if (!prompt) throw InvalidArgument("prompt", "is missing, and so are messages");
    const bool add_special_tokens = fields.boolean("add_special_tokens").value_or(true);
    fields.refuse_others();
    ids = llm_.encode(*prompt, add_special_tokens);
  }
  Json strings;
  if (with_strings) {
    strings = Json::array();
    for (const int32_t id : ids) strings.push_back(llm_.token_text(id));
  }
  return {{"count", ids.size()},
          {"max_model_len", llm_.memory_plan().max_model_len},
          {"tokens", ids},
          {"token_strs", std::move(strings)}};
}

Json ApiServer::detokenize(const Json& body) const {
  const openai::Fields fields(body, "body");
  if (const auto model = fields.string("model")) check_model(*model);
  if (!llm_.info().has_tokenizer) throw InvalidArgument("model", "has no tokenizer");
  const Json* tokens = fields.array("tokens");
  if (!tokens) throw InvalidArgument("tokens", "is missing");
  std::vector<int32_t> ids;
  for (const Json& id : *tokens)
    ids.push_back(
        static_cast<int32_t>(openai::to_integer("tokens", id, 0, llm_.info().vocab_size - 1)));
  fields.refuse_others();
  return {{"prompt", llm_.decode(ids, false)}};
}

}  // namespace nanovllm
