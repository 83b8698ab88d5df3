// Tool calls: what a model writes when it calls a function, read out of its text as it grows, and
// the form a text must have if a call is required.
//
// Which way of writing is the model's own is told by its chat template:
//   Hermes (Qwen2.5, Qwen3)  <tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>
//   Llama (3.1 and later)    {"name": "f", "parameters": {...}}, further ones behind a semicolon
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nanovllm/structured_outputs.h"
#include "server/openai_json.h"

namespace nanovllm::openai {

enum class ToolFormat { kNone, kHermes, kLlama };
ToolFormat detect_tool_format(std::string_view chat_template);

// The fields tools, tool_choice and parallel_tool_calls.
struct ToolRequest {
  enum class Choice { kNone, kAuto, kRequired };
  Json tools = Json::array();  // as the template prints them
  Choice choice = Choice::kNone;
  std::string function;  // the only one that may be called, if one is named
  bool parallel = true;  // more than one call may be made

  bool has(std::string_view name) const;  // a tool of that name
};
// Throws InvalidArgument naming the field.
ToolRequest parse_tool_request(const Fields& fields);

// A text that makes at least one call, with arguments by the functions' schemas.
StructuredOutputs required_calls(ToolFormat format, const ToolRequest& request);

// One call as it is written: an object with a name and arguments, byte by byte.
class CallReader {
 public:
  enum class State { kReading, kDone, kBroken };
  State add(char c);
  const std::optional<std::string>& name() const { return name_; }
  bool has_arguments() const { return has_arguments_; }
  const std::string& arguments() const { return arguments_; }  // as far as they are there

 private:
  enum class Expect { kOpen, kKey, kKeyOrEnd, kInKey, kColon, kValue, kInValue, kCommaOrEnd, kEnd };
  void end_value();
  State state() const;

  Expect expect_ = Expect::kOpen;
  bool broken_ = false, in_string_ = false, escaped_ = false;
  int depth_ = 0;  // of brackets inside the value
  std::string key_, value_;
  bool value_is_arguments_ = false;
  std::optional<std::string> name_;
  bool has_arguments_ = false;
  std::string arguments_;
};

// What a piece of text turned out to be.
struct ToolDelta {
  struct Call {
    int index = 0;
    std::string name;       // set when the call begins
    std::string arguments;  // what came to them
  };
  std::string content;
  std::vector<Call> calls;
};

// Reads one completion. Text that may be the beginning of a call is held back until it is certain;
// the pieces concatenate to the same content and calls however the text is cut.
class ToolCallParser {
 public:
  // request outlives this.
  ToolCallParser(ToolFormat format, const ToolRequest& request);
  ToolDelta add(std::string_view text);
  ToolDelta finish();  // the text ends here
  int num_calls() const { return num_calls_; }

 private:
  enum class Place { kText, kCall, kAfterCall, kPlain };
  void step(char c, ToolDelta& out);
  void read_text(char c, ToolDelta& out);
  void read_call(char c, ToolDelta& out);
  void read_after_call(char c, ToolDelta& out);
  void begin_call();
  void tell(bool done, ToolDelta& out);
  void release(ToolDelta& out);

  const ToolFormat format_;
  const ToolRequest& request_;
  Place place_ = Place::kText;
  std::string held_;  // text that may be, or is, part of a call
  CallReader call_;
  bool named_ = false;      // its name is known, and that of a function there is
  bool announced_ = false;  // the call under way has been told of
  size_t told_ = 0;         // bytes of its arguments
  int num_calls_ = 0;
};

}  // namespace nanovllm::openai
