// template: renders a Jinja chat template with the JSON context on stdin, byte for byte.
#include <memory>

#include "cli/cli.h"
#include "server/openai_json.h"
#include "tokenizer/chat_template.h"

namespace nanovllm::cli {

Action define_template(Flags& flags) {
  auto file = std::make_shared<std::string>();
  flags.positional("FILE", "the template",
                   [file](const std::string&, const std::string& value) { *file = value; });
  flags.note(
      "The context is a JSON object on stdin: {\"messages\": [...], \"add_generation_prompt\": "
      "true, ...}. The text "
      "is written as it is, without a newline at the end.");
  return [file] {
    if (file->empty()) throw InvalidArgument("FILE", "is missing; give the template's file");
    if (*file == "-") throw InvalidArgument("FILE", "'-' is not allowed: stdin holds the context");
    const ChatTemplate chat_template(read_text_file(*file, size_t{16} << 20), *file);
    openai::Json context;
    try {
      context = openai::parse_body(read_stdin(openai::kMaxBodyBytes));
    } catch (const InvalidArgument& e) {
      throw Error("standard input", e.reason());
    }
    if (!context.is_object())
      throw Error("standard input",
                  std::string("is ") + openai::type_name(context) + "; must be an object");
    write_stdout(chat_template.render(context));
    return kExitOk;
  };
}

}  // namespace nanovllm::cli
