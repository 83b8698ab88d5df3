#include "server/tool_calls.h"

namespace nanovllm::openai {
namespace {

constexpr std::string_view kHermesBegin = "<tool_call>", kHermesEnd = "</tool_call>";
constexpr std::string_view kLlamaTag = "<|python_tag|>";  // before a call, or left out

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

// text without the white space it begins with
std::string_view skip_space(std::string_view text) {
  while (!text.empty() && is_space(text[0])) text.remove_prefix(1);
  return text;
}

// The string that a JSON string literal stands for; none if it is none.
std::optional<std::string> decode_string(const std::string& literal) {
  const Json value = Json::parse(literal, nullptr, /*allow_exceptions=*/false);
  if (!value.is_string()) return std::nullopt;
  return value.get<std::string>();
}

const Json& function_of(const Json& tool) { return tool["function"]; }

Json parse_tools(const Json& list) {
  for (const Json& tool : list) {
    const Fields fields(tool, "tools");
    if (fields.string("type") != "function")
      throw InvalidArgument("tools", "a tool's type must be \"function\"");
    const Json* function = fields.object("function");
    if (!function) throw InvalidArgument("tools", "a tool has no function");
    const Fields of_function(*function, "tools");
    const auto name = of_function.string("name");
    if (!name || name->empty()) throw InvalidArgument("tools", "a function has no name");
    of_function.string("description");
    of_function.object("parameters");
    of_function.boolean("strict");
    for (const Json& other : list) {
      if (&other == &tool) break;
      if (function_of(other)["name"] == *name)
        throw InvalidArgument("tools", "two functions are named " + dump(Json(*name)));
    }
  }
  return list;
}

}  // namespace

ToolFormat detect_tool_format(std::string_view chat_template) {
  if (!contains(chat_template, "tools")) return ToolFormat::kNone;
  // Between the same tags Qwen3-Coder and GLM put XML.
  if (contains(chat_template, kHermesBegin) && contains(chat_template, "\"name\"") &&
      contains(chat_template, "\"arguments\""))
    return ToolFormat::kHermes;
  if (contains(chat_template, "<|start_header_id|>") && contains(chat_template, "\"parameters\": "))
    return ToolFormat::kLlama;
  return ToolFormat::kNone;
}

bool ToolRequest::has(std::string_view name) const {
  for (const Json& tool : tools)
    if (function_of(tool)["name"] == name) return function.empty() || function == name;
  return false;
}

ToolRequest parse_tool_request(const Fields& fields) {
  ToolRequest request;
  if (const Json* tools = fields.array("tools")) request.tools = parse_tools(*tools);
  request.parallel = fields.boolean("parallel_tool_calls").value_or(true);
  if (!request.tools.empty()) request.choice = ToolRequest::Choice::kAuto;
  const Json* choice = fields.get("tool_choice");
  if (!choice) return request;
  if (choice->is_object()) {
    const Fields named(*choice, "tool_choice");
    const Json* function = named.object("function");
    std::optional<std::string> name;
    if (function) {
      const Fields of_function(*function, "tool_choice");
      name = of_function.string("name");
      of_function.refuse_others("tool_choice.function.");
    }
    if (named.string("type") != "function" || !name)
      throw InvalidArgument(
          "tool_choice", R"(must be {"type": "function", "function": {"name": NAME}} or a word)");
    named.refuse_others("tool_choice.");
    if (!request.has(*name))
      throw InvalidArgument("tool_choice", "names " + dump(Json(*name)) + ", which is no tool");
    request.function = *name;
    request.choice = ToolRequest::Choice::kRequired;
  } else if (*choice == "none") {
    request.choice = ToolRequest::Choice::kNone;
  } else if (*choice == "required") {
    if (request.tools.empty()) throw InvalidArgument("tool_choice", "\"required\" needs tools");
    request.choice = ToolRequest::Choice::kRequired;
  } else if (*choice != "auto") {
    throw InvalidArgument(
        "tool_choice",
        "is " + dump(*choice) + R"(; must be "none", "auto", "required" or a function)");
  }
  return request;
}

StructuredOutputs required_calls(ToolFormat format, const ToolRequest& request) {
  const bool hermes = format == ToolFormat::kHermes;
  Json tags = Json::array();
  for (const Json& tool : request.tools) {
    const Json& function = function_of(tool);
    const std::string name = function["name"];
    if (!request.has(name)) continue;
    const auto parameters = function.find("parameters");
    const bool any = parameters == function.end() || parameters->is_null();
    // One space or newline between tokens at most: a small model would go on with them for ever.
    const Json arguments = {{"type", "json_schema"},
                            {"json_schema", any ? Json{{"type", "object"}} : *parameters},
                            {"max_whitespace_cnt", 1}};
    const std::string object =
        "{\"name\": " + dump(Json(name)) + (hermes ? ", \"arguments\": " : ", \"parameters\": ");
    tags.push_back({{"type", "tag"},
                    {"begin", hermes ? std::string(kHermesBegin) + "\n" + object : object},
                    {"content", arguments},
                    {"end", hermes ? "}\n" + std::string(kHermesEnd) : "}"}});
  }
  StructuredOutputs outputs;
  outputs.disable_any_whitespace = true;
  outputs.structural_tag =
      dump({{"type", "structural_tag"},
            {"format",
             {{"type", "tags_with_separator"},
              {"tags", std::move(tags)},
              {"separator", hermes ? "\n" : "; "},
              {"at_least_one", true},
              {"stop_after_first", !request.parallel || !request.function.empty()}}}});
  return outputs;
}

CallReader::State CallReader::add(char c) {
  if (broken_ || expect_ == Expect::kEnd) return state();
  if (expect_ == Expect::kInKey) {
    key_ += c;
    if (escaped_ || c == '\\') {
      escaped_ = !escaped_;
    } else if (c == '"') {
      const auto key = decode_string(key_);
      broken_ = !key;
      key_ = key.value_or("");
      expect_ = Expect::kColon;
    }
    return state();
  }
  if (expect_ == Expect::kInValue) {
    const bool ends =
        !in_string_ && depth_ == 0 && (is_space(c) || c == ',' || c == '}' || c == ']');
    if (!ends) {
      value_ += c;
      if (value_is_arguments_ && value_[0] != '"') arguments_ += c;
      if (in_string_) {
        if (escaped_ || c == '\\')
          escaped_ = !escaped_;
        else if (c == '"')
          in_string_ = false;
      } else if (c == '"') {
        in_string_ = true;
      } else if (c == '{' || c == '[') {
        ++depth_;
      } else if (c == '}' || c == ']') {
        --depth_;
      }
      const bool closed = !in_string_ && depth_ == 0 && (c == '"' || c == '}' || c == ']');
      if (closed) end_value();
      return state();
    }
    end_value();  // a number or a word; c is behind it
  }
  if (broken_ || is_space(c)) return state();
  switch (expect_) {
    case Expect::kOpen:
      broken_ = c != '{';
      expect_ = Expect::kKeyOrEnd;
      break;
    case Expect::kKeyOrEnd:
    case Expect::kKey:
      if (c == '"') {
        key_ = "\"";
        expect_ = Expect::kInKey;
      } else if (c == '}' && expect_ == Expect::kKeyOrEnd) {
        expect_ = Expect::kEnd;
      } else {
        broken_ = true;
      }
      break;
    case Expect::kColon:
      broken_ = c != ':';
      expect_ = Expect::kValue;
      break;
    case Expect::kValue:
      if (c == ',' || c == '}' || c == ']' || c == ':') {
        broken_ = true;
        break;
      }
      expect_ = Expect::kInValue;
      value_.clear();
      value_is_arguments_ = !has_arguments_ && (key_ == "arguments" || key_ == "parameters");
      if (value_is_arguments_) has_arguments_ = true;
      return add(c);
    case Expect::kCommaOrEnd:
      broken_ = c != ',' && c != '}';
      expect_ = c == ',' ? Expect::kKey : Expect::kEnd;
      break;
    default:
      break;
  }
  return state();
}

void CallReader::end_value() {
  expect_ = Expect::kCommaOrEnd;
  if (key_ == "name" && !name_) {
    name_ = decode_string(value_);
    broken_ = !name_;
  } else if (value_is_arguments_ && value_[0] == '"') {  // their text instead of themselves
    if (const auto text = decode_string(value_))
      arguments_ = *text;
    else
      broken_ = true;
  }
}

CallReader::State CallReader::state() const {
  return broken_ ? State::kBroken : expect_ == Expect::kEnd ? State::kDone : State::kReading;
}

ToolCallParser::ToolCallParser(ToolFormat format, const ToolRequest& request)
    : format_(format), request_(request) {
  if (format == ToolFormat::kNone) place_ = Place::kPlain;
}

ToolDelta ToolCallParser::add(std::string_view text) {
  ToolDelta out;
  for (const char c : text) step(c, out);
  return out;
}

ToolDelta ToolCallParser::finish() {
  ToolDelta out;
  const bool space_behind_calls = num_calls_ > 0 && skip_space(held_).empty();
  const bool text = place_ == Place::kText && !space_behind_calls;
  if (text || (place_ == Place::kCall && !announced_)) out.content = std::move(held_);
  held_.clear();
  return out;
}

void ToolCallParser::step(char c, ToolDelta& out) {
  switch (place_) {
    case Place::kText:
      return read_text(c, out);
    case Place::kCall:
      return read_call(c, out);
    case Place::kAfterCall:
      return read_after_call(c, out);
    case Place::kPlain:
      out.content += c;
  }
}

// held_ is white space and as much of the tag as is there. A Llama calls at the very beginning of
// its text or not at all, with the tag or without.
void ToolCallParser::read_text(char c, ToolDelta& out) {
  const bool hermes = format_ == ToolFormat::kHermes;
  const std::string_view tag = hermes ? kHermesBegin : kLlamaTag;
  const std::string_view begun = skip_space(held_);
  const bool goes_on = begun.size() < tag.size() && c == tag[begun.size()];
  if (!hermes && c == '{' && (begun.empty() || begun == tag)) {
    begin_call();
    read_call(c, out);
  } else if (goes_on || (begun.empty() && is_space(c))) {
    held_ += c;
    if (hermes && begun.size() + 1 == tag.size()) begin_call();
  } else if (held_.empty()) {
    out.content += c;
    if (!hermes) place_ = Place::kPlain;
  } else {
    release(out);
    step(c, out);
  }
}

void ToolCallParser::read_call(char c, ToolDelta& out) {
  const CallReader::State state = call_.add(c);
  bool broken = state == CallReader::State::kBroken;
  if (state == CallReader::State::kDone) broken = !call_.name();
  if (call_.name() && !named_) {
    named_ = true;
    broken = broken || !request_.has(*call_.name());
  }
  if (broken && !announced_) {
    release(out);
    step(c, out);
    return;
  }
  held_ += c;
  if (!broken) tell(state == CallReader::State::kDone, out);
  if (broken || state == CallReader::State::kDone) {
    held_.clear();
    place_ = broken && format_ == ToolFormat::kLlama ? Place::kPlain : Place::kAfterCall;
  }
}

void ToolCallParser::read_after_call(char c, ToolDelta& out) {
  if (format_ == ToolFormat::kLlama && c == '{' && held_.find(';') != std::string::npos) {
    begin_call();
    read_call(c, out);
    return;
  }
  held_ += c;
  if (format_ == ToolFormat::kHermes) {  // whatever stands before the closing tag is dropped
    if (!held_.ends_with(kHermesEnd)) return;
    held_.clear();
    place_ = Place::kText;
  } else if (!is_space(c) && c != ';') {
    release(out);
  }
}

void ToolCallParser::begin_call() {
  place_ = Place::kCall;
  call_ = CallReader();
  named_ = announced_ = false;
  told_ = 0;
}

void ToolCallParser::tell(bool done, ToolDelta& out) {
  if (!announced_) {
    if (!call_.name() || !(call_.has_arguments() || done)) return;
    if (num_calls_ > 0 && !request_.parallel) return;  // one too many
    announced_ = true;
    out.calls.push_back({num_calls_++, *call_.name(), ""});
    if (!call_.has_arguments()) out.calls.back().arguments = "{}";
  }
  const std::string_view more = std::string_view(call_.arguments()).substr(told_);
  if (more.empty()) return;
  told_ += more.size();
  const int index = num_calls_ - 1;
  if (out.calls.empty() || out.calls.back().index != index) out.calls.push_back({index, "", ""});
  out.calls.back().arguments += more;
}

// What was held back is text after all.
void ToolCallParser::release(ToolDelta& out) {
  out.content += held_;
  held_.clear();
  place_ = format_ == ToolFormat::kHermes ? Place::kText : Place::kPlain;
}

}  // namespace nanovllm::openai
