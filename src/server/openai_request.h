// The body of a /v1/completions or /v1/chat/completions request, checked and turned into what the
// engine takes.
//
// Fields are OpenAI's and vLLM's. What this engine does not do (beam search, images, ...) and what
// it does not know is refused by name, never ignored: a client that asks for something shall not
// believe that it got it. Fields that ask for nothing are taken (accept_harmless). Every
// complaint is an InvalidArgument whose where() is the field. Nothing here touches the engine: see
// openai_service.h.
#pragma once

#include <string>
#include <vector>

#include "nanovllm/llm.h"
#include "server/openai_json.h"
#include "server/tool_calls.h"

namespace nanovllm::openai {

enum class Endpoint { kCompletions, kChatCompletions };

struct ApiRequest {
  Endpoint endpoint = Endpoint::kCompletions;
  std::string model;  // as the client wrote it; empty if left out
  SamplingParams params;
  std::string structured_field;  // the one that asks for a form of the text; empty if none
  RequestOptions options;
  std::string request_id;  // vLLM's: part of the response's id; empty if left out
  std::string user;        // as the client wrote it; for the log
  bool stream = false, include_usage = false;
  bool continuous_usage = false;  // vLLM's: usage so far in each chunk
  bool return_token_ids = false;  // vLLM's: token_ids and prompt_token_ids in the response
  bool return_tokens_as_token_ids = false;  // vLLM's: token strings read "token_id:N"
  bool return_prompt_logprobs = false;      // asked for by name, not only through echo

  // Completions.
  std::vector<Prompt> prompts;
  bool echo = false;

  // Chat: the template's input. The prompt is rendered when the request is submitted.
  ToolRequest tools;
  ToolFormat tool_format = ToolFormat::kNone;  // set by prepare(); kNone: no calls are looked for
  Json messages = Json::array();
  Json template_options = Json::object();  // tools, documents, chat_template_kwargs
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  bool add_special_tokens = false;
  int64_t top_logprobs = 0;
};

// defaults: the model's own, for what the request leaves out. Ranges that need no model are checked
// too (vocab_size 0 leaves token ids to the engine).
ApiRequest parse_request(Endpoint endpoint, const Json& body, const GenerationDefaults& defaults,
                         int64_t vocab_size = 0);

// Those fields of a chat request that make its prompt, into `request`; /tokenize takes them too.
void parse_chat_prompt(const Fields& fields, ApiRequest& request);

// Messages as chat templates want them: the text parts of a content list joined by newlines, a null
// content made "", the arguments of tool calls parsed from their JSON text. Throws InvalidArgument
// for other shapes and kinds of content.
Json normalize_messages(const Json& messages);

}  // namespace nanovllm::openai
