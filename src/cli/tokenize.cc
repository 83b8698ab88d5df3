// tokenize: text or chat messages to token ids, and back. Reads the tokenizer only, so a
// vocabulary-only GGUF will do.
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <memory>

#include "cli/cli.h"
#include "cli/load.h"
#include "cli/shared_flags.h"
#include "formats/gguf.h"
#include "server/openai_request.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace nanovllm::cli {
namespace {

using openai::Json;

constexpr size_t kMaxInput = size_t{1} << 30;

struct TokenizeOptions {
  EngineConfig config;
  bool chat = false, decode = false, add_special_tokens = true, skip_special_tokens = false,
       add_generation_prompt = true;
};

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& model) {
  const std::string path = locate_model(model);
  const bool folder = std::filesystem::is_directory(path);
  std::unique_ptr<Tokenizer> tokenizer =
      folder ? Tokenizer::from_folder(path) : Tokenizer::from_gguf(GgufFile(path));
  if (!tokenizer)
    throw Error(path, folder ? "has no tokenizer.json" : "has no tokenizer among its metadata");
  return tokenizer;
}

Json parse_input(const std::string& text) {
  try {
    return openai::parse_body(text, kMaxInput);
  } catch (const InvalidArgument& e) {
    throw Error("standard input", e.reason());
  }
}

// Messages (an array), or an object of messages, tools and further template variables, as one text.
std::string render_chat(const Tokenizer& tokenizer, const TokenizeOptions& options, Json input) {
  if (tokenizer.chat_template().empty()) throw Error(options.config.model, "has no chat template");
  Json context = input.is_array() ? Json{{"messages", std::move(input)}} : std::move(input);
  if (!context.is_object() || !context.contains("messages"))
    throw Error("standard input",
                "must be a JSON array of messages, or an object that holds \"messages\"");
  context["messages"] = openai::normalize_messages(context["messages"]);
  for (const char* name : {"tools", "documents"})
    if (!context.contains(name)) context[name] = nullptr;
  if (!context.contains("add_generation_prompt"))
    context["add_generation_prompt"] = options.add_generation_prompt;
  if (const auto id = tokenizer.bos_token_id()) context["bos_token"] = tokenizer.id_to_token(*id);
  if (const auto id = tokenizer.eos_token_id()) context["eos_token"] = tokenizer.id_to_token(*id);
  return ChatTemplate(tokenizer.chat_template()).render(context);
}

std::vector<int32_t> parse_ids(const Json& input) {
  if (!input.is_array()) throw Error("standard input", "must be a JSON array of token ids");
  std::vector<int32_t> ids;
  try {
    for (const Json& id : input)
      ids.push_back(static_cast<int32_t>(
          openai::to_integer("a token id", id, 0, std::numeric_limits<int32_t>::max())));
  } catch (const InvalidArgument& e) {
    throw Error("standard input", e.what());
  }
  return ids;
}

int run_tokenize(const TokenizeOptions& options) {
  if (options.chat && options.decode)
    throw InvalidArgument("--decode", "cannot be given with --chat");
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(options.config.model);
  const std::string input = read_stdin(kMaxInput);
  if (options.decode) {
    write_stdout(tokenizer->decode(parse_ids(parse_input(input)), options.skip_special_tokens));
    if (isatty(STDOUT_FILENO)) write_stdout("\n");
    return kExitOk;
  }
  const std::vector<int32_t> ids =
      options.chat ? tokenizer->encode(render_chat(*tokenizer, options, parse_input(input)), false)
                   : tokenizer->encode(input, options.add_special_tokens);
  std::string out = "[";
  for (const int32_t id : ids) out += (out.size() > 1 ? ", " : "") + std::to_string(id);
  write_stdout(out + "]\n");
  return kExitOk;
}

}  // namespace

Action define_tokenize(Flags& flags) {
  auto o = std::make_shared<TokenizeOptions>();
  add_model_flags(flags, &o->config);
  flags.toggle(
      "--chat",
      "stdin holds chat messages as JSON: an array, or an object with messages, tools, ...",
      &o->chat);
  flags.toggle("--decode", "stdin holds a JSON array of ids; writes their text, exactly",
               &o->decode);
  flags.toggle("--no-add-special-tokens", "no BOS and the like", &o->add_special_tokens, false);
  flags.toggle("--no-add-generation-prompt", "with --chat: no opening of the answer",
               &o->add_generation_prompt, false);
  flags.toggle("--skip-special-tokens", "with --decode: leave special tokens out of the text",
               &o->skip_special_tokens);
  flags.toggle("--json", "accepted; the ids are JSON anyway", [] {});
  flags.note(
      "Reads stdin to its end, newlines included. --decode adds a newline only on a terminal.");
  return [o] { return run_tokenize(*o); };
}

}  // namespace nanovllm::cli
