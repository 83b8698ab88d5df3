#include "server/openai_request.h"

#include <charconv>
#include <limits>

#include "server/structured_request.h"

namespace nanovllm::openai {
namespace {

constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();

// Refused unless null or `off` (the value that asks for nothing).
void refuse(const Fields& fields, const char* name, const Json& off = nullptr) {
  const Json* value = fields.get(name);
  if (value && *value != off) throw InvalidArgument(name, "is not supported");
}

void refuse_unsupported(const Fields& fields) {
  for (const char* name :
       {"guided_whitespace_pattern", "guided_decoding_backend", "structural_tag",
        "logits_processors", "allowed_token_ids", "bad_words", "truncate_prompt_tokens",
        "prompt_embeds", "mm_processor_kwargs", "kv_transfer_params"})
    refuse(fields, name);
  refuse(fields, "use_beam_search", false);
  refuse(fields, "length_penalty", 1.0);
  refuse(fields, "early_stopping", false);
}

// What asks for nothing here: hints, labels, and the values that a client's library may send by
// itself. Read for their types, so that Fields knows them.
void accept_harmless(const Fields& fields) {
  for (const char* name : {"safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
    fields.string(name);
  fields.object("metadata");
  fields.boolean("parallel_tool_calls");
  refuse(fields, "store", false);
  refuse(fields, "spaces_between_special_tokens", true);
  refuse(fields, "detokenize", true);
  refuse(fields, "include_reasoning", true);
  if (const auto tier = fields.string("service_tier");
      tier && *tier != "auto" && *tier != "default")
    throw InvalidArgument("service_tier", "only 'auto' and 'default' are supported");
}

std::vector<std::string> parse_stop(const Json& stop) {
  if (stop.is_string()) return {stop.get<std::string>()};
  if (!stop.is_array())
    throw InvalidArgument("stop",
                          std::string("is ") + type_name(stop) + "; must be a string or a list");
  std::vector<std::string> result;
  for (const Json& item : stop) {
    if (!item.is_string())
      throw InvalidArgument("stop",
                            std::string("holds ") + type_name(item) + "; must hold strings");
    result.push_back(item.get<std::string>());
  }
  return result;
}

std::map<int32_t, double> parse_logit_bias(const Json& object) {
  std::map<int32_t, double> result;
  for (const auto& [key, value] : object.items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0)
      throw InvalidArgument("logit_bias", "key " + Json(key).dump() + " is not a token id");
    if (!value.is_number())
      throw InvalidArgument("logit_bias",
                            std::string("holds ") + type_name(value) + "; must hold numbers");
    result[id] = value.get<double>();
  }
  return result;
}

// The sampling parameters that both endpoints spell alike.
SamplingParams parse_sampling(const Fields& fields, const GenerationDefaults& defaults) {
  SamplingParams p;
  auto number = [&](const char* name, double* target,
                    std::optional<double> model_default = std::nullopt) {
    if (const auto value = fields.number(name))
      *target = *value;
    else if (model_default)
      *target = *model_default;
  };
  number("temperature", &p.temperature, defaults.temperature);
  number("top_p", &p.top_p, defaults.top_p);
  number("min_p", &p.min_p, defaults.min_p);
  number("repetition_penalty", &p.repetition_penalty, defaults.repetition_penalty);
  number("presence_penalty", &p.presence_penalty);
  number("frequency_penalty", &p.frequency_penalty);
  p.top_k = fields.integer("top_k").value_or(defaults.top_k.value_or(p.top_k));
  p.seed = fields.integer("seed");
  p.n = fields.integer("n").value_or(p.n);
  p.min_tokens = fields.integer("min_tokens").value_or(p.min_tokens);
  p.ignore_eos = fields.boolean("ignore_eos").value_or(p.ignore_eos);
  p.skip_special_tokens = fields.boolean("skip_special_tokens").value_or(p.skip_special_tokens);
  p.include_stop_str_in_output =
      fields.boolean("include_stop_str_in_output").value_or(p.include_stop_str_in_output);
  p.prompt_logprobs = fields.integer("prompt_logprobs");
  if (const Json* stop = fields.get("stop")) p.stop = parse_stop(*stop);
  if (const Json* ids = fields.array("stop_token_ids"))
    for (const Json& id : *ids)
      p.stop_token_ids.push_back(static_cast<int32_t>(to_integer("stop_token_ids", id, 0, kMaxId)));
  if (const Json* bias = fields.object("logit_bias")) p.logit_bias = parse_logit_bias(*bias);
  return p;
}

std::vector<int32_t> parse_ids(const Json& list) {
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const Json& id : list)
    ids.push_back(static_cast<int32_t>(to_integer("prompt", id, 0, kMaxId)));
  return ids;
}

// A string, a list of strings, a list of ids, or a list of lists of ids.
std::vector<Prompt> parse_prompts(const Json& prompt, bool add_special_tokens) {
  auto text_prompt = [&](const Json& text) {
    return Prompt{text.get<std::string>(), {}, add_special_tokens};
  };
  if (prompt.is_string()) return {text_prompt(prompt)};
  if (!prompt.is_array())
    throw InvalidArgument("prompt", std::string("is ") + type_name(prompt) +
                                        "; must be a string, or a list of "
                                        "strings, of token ids, or of lists of token ids");
  if (prompt.empty()) throw InvalidArgument("prompt", "is empty");
  if (prompt[0].is_number()) return {Prompt{"", parse_ids(prompt), add_special_tokens}};
  std::vector<Prompt> prompts;
  for (const Json& item : prompt) {
    if (item.type() != prompt[0].type())
      throw InvalidArgument("prompt", "mixes strings and token ids");
    if (item.is_string()) {
      prompts.push_back(text_prompt(item));
    } else if (item.is_array()) {
      if (item.empty()) throw InvalidArgument("prompt", "holds an empty list of token ids");
      prompts.push_back({"", parse_ids(item), add_special_tokens});
    } else {
      throw InvalidArgument(
          "prompt", std::string("holds ") + type_name(item) + "; must hold strings or token ids");
    }
  }
  return prompts;
}

void parse_completion(const Fields& fields, ApiRequest& request) {
  refuse(fields, "suffix", "");
  if (const auto best_of = fields.integer("best_of"); best_of && *best_of != request.params.n)
    throw InvalidArgument("best_of", "is not supported unless it equals n");
  const Json* prompt = fields.get("prompt");
  if (!prompt) throw InvalidArgument("prompt", "is missing");
  request.prompts = parse_prompts(*prompt, fields.boolean("add_special_tokens").value_or(true));
  request.echo = fields.boolean("echo").value_or(false);

  SamplingParams& p = request.params;
  const Json* logprobs = fields.get("logprobs");
  if (logprobs && logprobs->is_boolean())
    throw InvalidArgument("logprobs", "is a boolean; must be an integer");
  p.logprobs = fields.integer("logprobs");
  request.top_logprobs = p.logprobs.value_or(0);
  if (request.echo && p.logprobs && !p.prompt_logprobs) p.prompt_logprobs = p.logprobs;
}

void parse_chat(const Fields& fields, ApiRequest& request) {
  for (const char* name :
       {"audio", "functions", "function_call", "chat_template", "prediction", "web_search_options"})
    refuse(fields, name);
  refuse(fields, "echo", false);
  if (const Json* modalities = fields.array("modalities");
      modalities && *modalities != Json::array({"text"}))
    throw InvalidArgument("modalities", "only [\"text\"] is supported");
  parse_chat_prompt(fields, request);
  if (request.tools.choice == ToolRequest::Choice::kRequired && !request.structured_field.empty())
    throw InvalidArgument("tool_choice", "cannot be combined with " + request.structured_field);

  SamplingParams& p = request.params;
  const bool logprobs = fields.boolean("logprobs").value_or(false);
  request.top_logprobs = fields.integer("top_logprobs").value_or(0);
  if (request.top_logprobs != 0 && !logprobs)
    throw InvalidArgument("top_logprobs", "needs logprobs to be true");
  if (logprobs) p.logprobs = request.top_logprobs;
}

int64_t parse_max_tokens(const Fields& fields, const char* name, int64_t left_out) {
  const auto value = fields.integer(name);
  if (value && *value < 0)
    throw InvalidArgument(name, "is " + std::to_string(*value) + "; must be at least 0");
  return value.value_or(left_out);
}

// Templates walk the arguments of an earlier tool call as an object; clients send them as JSON
// text.
Json parse_arguments(const std::string& text) {
  if (text.empty()) return Json::object();
  try {
    return parse_body(text);
  } catch (const InvalidArgument& e) {
    throw InvalidArgument("messages", "the arguments of a tool call: " + e.reason());
  }
}

// The text of a content list.
std::string join_parts(const Json& parts) {
  std::string text;
  for (const Json& part : parts) {
    const Fields fields(part, "messages");
    const std::string type = fields.string("type").value_or("");
    if (type != "text" && type != "input_text")
      throw InvalidArgument(
          "messages", "content of type " + dump(Json(type)) + " is not supported; only text is");
    const auto part_text = fields.string("text");
    if (!part_text)
      throw InvalidArgument("messages", "a content part of type \"text\" has no text");
    text += (&part == &parts.front() ? "" : "\n") + *part_text;
  }
  return text;
}

}  // namespace

void parse_chat_prompt(const Fields& fields, ApiRequest& request) {
  const Json* messages = fields.array("messages");
  if (!messages) throw InvalidArgument("messages", "is missing");
  request.messages = normalize_messages(*messages);
  if (const Json* kwargs = fields.object("chat_template_kwargs"))
    request.template_options = *kwargs;
  if (const auto effort = fields.string("reasoning_effort"))
    request.template_options["reasoning_effort"] = *effort;
  if (const Json* documents = fields.array("documents"))
    request.template_options["documents"] = *documents;
  request.tools = parse_tool_request(fields);
  if (!request.tools.tools.empty()) request.template_options["tools"] = request.tools.tools;
  request.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(true);
  request.continue_final_message = fields.boolean("continue_final_message").value_or(false);
  request.add_special_tokens = fields.boolean("add_special_tokens").value_or(false);
  if (!request.continue_final_message) return;
  if (fields.boolean("add_generation_prompt").value_or(false))
    throw InvalidArgument("continue_final_message",
                          "cannot be true together with add_generation_prompt");
  request.add_generation_prompt = false;
}

ApiRequest parse_request(Endpoint endpoint, const Json& body, const GenerationDefaults& defaults,
                         int64_t vocab_size) {
  const Fields fields(body, "body");
  const bool chat = endpoint == Endpoint::kChatCompletions;
  ApiRequest request;
  request.endpoint = endpoint;
  request.model = fields.string("model").value_or("");
  refuse_unsupported(fields);
  accept_harmless(fields);
  request.params = parse_sampling(fields, defaults);
  StructuredField structured = parse_structured(fields);
  request.params.structured_outputs = std::move(structured.outputs);
  request.structured_field = std::move(structured.name);
  request.return_prompt_logprobs = request.params.prompt_logprobs.has_value();
  request.stream = fields.boolean("stream").value_or(false);
  request.user = fields.string("user").value_or("");
  request.request_id = fields.string("request_id").value_or("");
  if (request.request_id.size() > 128)
    throw InvalidArgument("request_id", "is longer than 128 bytes");
  if (const Json* options = fields.object("stream_options")) {
    if (!request.stream) throw InvalidArgument("stream_options", "needs stream to be true");
    const Fields stream(*options, "stream_options");
    request.include_usage = stream.boolean("include_usage").value_or(false);
    request.continuous_usage =
        stream.boolean("continuous_usage_stats").value_or(false) && request.include_usage;
    stream.refuse_others("stream_options.");
  }
  request.return_token_ids = fields.boolean("return_token_ids").value_or(false);
  request.return_tokens_as_token_ids = fields.boolean("return_tokens_as_token_ids").value_or(false);
  request.options.priority = static_cast<int>(
      fields.get("priority") ? to_integer("priority", *fields.get("priority"), -kMaxId, kMaxId)
                             : 0);
  request.options.cache_salt = fields.string("cache_salt").value_or("");

  // -1 is "as far as the context goes": what vLLM does for a chat that names no limit, and for an
  // explicit null.
  const bool has_max_tokens = body.contains("max_tokens");
  request.params.max_tokens = parse_max_tokens(
      fields, "max_tokens", chat || has_max_tokens ? -1 : request.params.max_tokens);
  if (chat) {
    request.params.max_tokens =
        parse_max_tokens(fields, "max_completion_tokens", request.params.max_tokens);
    parse_chat(fields, request);
  } else {
    parse_completion(fields, request);
  }
  fields.refuse_others();
  request.params.validate(vocab_size);
  return request;
}

Json normalize_messages(const Json& messages) {
  if (!messages.is_array())
    throw InvalidArgument("messages",
                          std::string("is ") + type_name(messages) + "; must be an array");
  if (messages.empty()) throw InvalidArgument("messages", "is empty");
  Json result = Json::array();
  for (const Json& message : messages) {
    const Fields fields(message, "messages");
    if (!fields.string("role")) throw InvalidArgument("messages", "a message has no role");
    Json out = message;
    const Json* content = fields.get("content");
    if (!content) {
      out["content"] = "";
    } else if (content->is_array()) {
      out["content"] = join_parts(*content);
    } else if (!content->is_string()) {
      throw InvalidArgument("messages", std::string("content is ") + type_name(*content) +
                                            "; must be a string or a list of parts");
    }
    if (const Json* calls = fields.array("tool_calls")) {
      for (size_t i = 0; i < calls->size(); ++i) {
        const Fields call((*calls)[i], "messages");
        const Json* function = call.object("function");
        if (!function) continue;
        const Json* arguments = Fields(*function, "messages").get("arguments");
        if (arguments && arguments->is_string())
          out["tool_calls"][i]["function"]["arguments"] =
              parse_arguments(arguments->get_ref<const std::string&>());
      }
    }
    result.push_back(std::move(out));
  }
  return result;
}

}  // namespace nanovllm::openai
