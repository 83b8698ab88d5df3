#include "structured/grammar_compiler.h"

#include <algorithm>
#include <optional>

#include "nanovllm/error.h"
#include "structured/grammar_matcher.h"
#include "structured/schema_check.h"
#include "structured/xgrammar_log.h"
#include "structured/xgrammar_types.h"
#include "tokenizer/tokenizer.h"

namespace nanovllm {
namespace {

constexpr char kField[] = "structured_outputs";

// The name of the form that is set.
const char* form_of(const StructuredOutputs& outputs) {
  return outputs.json              ? "json"
         : outputs.json_object     ? "json_object"
         : outputs.regex           ? "regex"
         : !outputs.choice.empty() ? "choice"
         : outputs.grammar         ? "grammar"
                                   : "structural_tag";
}

std::string cache_key(const StructuredOutputs& outputs) {
  std::string key = form_of(outputs);
  key += outputs.disable_any_whitespace ? "-" : "+";
  for (const auto* text :
       {&outputs.json, &outputs.regex, &outputs.grammar, &outputs.structural_tag})
    if (*text) key += **text;
  for (const std::string& choice : outputs.choice)
    key += std::to_string(choice.size()) + ":" + choice;
  return key;
}

// Nothing but JSON and line breaks. A structural tag may hold anything, but a compact one is ours.
bool is_json(const StructuredOutputs& outputs) {
  return outputs.json || outputs.json_object ||
         (outputs.structural_tag && outputs.disable_any_whitespace);
}

bool has_control_characters(const std::string& text) {
  return std::ranges::any_of(
      text, [](char c) { return static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\r'; });
}

std::string quoted_literal(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      constexpr char kDigits[] = "0123456789abcdef";
      out += {'\\', 'x', kDigits[static_cast<unsigned char>(c) >> 4], kDigits[c & 15]};
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string choice_grammar(const std::vector<std::string>& choices) {
  std::string grammar = "root ::= ";
  for (size_t i = 0; i < choices.size(); ++i)
    grammar += (i ? " | " : "") + quoted_literal(choices[i]);
  return grammar;
}

xgrammar::CompiledGrammar compile_now(const xgrammar::TokenizerInfo& vocabulary,
                                      const StructuredOutputs& outputs) {
  const StrictXgrammar strict;
  xgrammar::GrammarCompiler compiler(vocabulary, /*max_threads=*/1, /*cache_enabled=*/false);
  auto made = [&] {
    const bool any_whitespace = !outputs.disable_any_whitespace;
    if (outputs.json) return compiler.CompileJSONSchema(*outputs.json, any_whitespace);
    if (outputs.json_object)
      return compiler.CompileJSONSchema(R"({"type": "object"})", any_whitespace);
    if (outputs.regex) return compiler.CompileRegex(*outputs.regex);
    if (!outputs.choice.empty()) return compiler.CompileGrammar(choice_grammar(outputs.choice));
    if (outputs.grammar) return compiler.CompileGrammar(*outputs.grammar);
    return compiler.CompileStructuralTag(*outputs.structural_tag);
  }();
  strict.check();
  return made;
}

// A text at random, as far as it goes in a hundred tokens: an ambiguous grammar compiles in no time
// and may then take seconds a token.
void try_matching(const std::shared_ptr<const CompiledGrammar>& grammar, int64_t vocab_size) {
  uint64_t random = 1;
  GrammarMatcher matcher(grammar, vocab_size, {});
  for (int i = 0; i < 100 && !matcher.is_terminated(); ++i) {
    matcher.prepare();
    std::vector<int32_t> allowed;
    for (int32_t id = 0; id < vocab_size; ++id)
      if (matcher.allows(id)) allowed.push_back(id);
    if (allowed.empty() && !matcher.gave_up()) throw XgrammarError("no text has this form");
    random = random * 6364136223846793005u + 1442695040888963407u;
    if (!allowed.empty()) matcher.accept(allowed[(random >> 33) % allowed.size()]);
    if (matcher.gave_up()) throw XgrammarError("takes too long to follow: it is too ambiguous");
  }
}

// xgrammar's complaints quote its source: "Check failed: (result.IsOk()) is false: REASON".
std::string plain_reason(std::string reason) {
  constexpr std::string_view kBefore = ") is false: ";
  if (reason.find("heck failed: (") < 12)
    if (const size_t at = reason.find(kBefore); at != std::string::npos)
      reason.erase(0, at + kBefore.size());
  while (!reason.empty() && (reason.back() == '\n' || reason.back() == ' ')) reason.pop_back();
  return reason;
}

}  // namespace

CompiledGrammar::CompiledGrammar(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
CompiledGrammar::~CompiledGrammar() = default;

struct GrammarCompiler::Vocabulary {
  xgrammar::TokenizerInfo info;
  // xgrammar lets control characters into strings of a limited length. JSON does not, and as white
  // space between its tokens only the tab is missed.
  std::shared_ptr<const TokenMask> in_json;
};

GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer, int64_t vocab_size,
                                 std::vector<int32_t> eos_token_ids, const RehearsalLimits& limits)
    : tokenizer_(tokenizer),
      vocab_size_(vocab_size),
      eos_token_ids_(std::move(eos_token_ids)),
      limits_(limits) {}
GrammarCompiler::~GrammarCompiler() = default;

bool GrammarCompiler::made(const CompiledGrammar& grammar) const {
  return grammar.impl().compiler == this;
}

std::shared_ptr<const CompiledGrammar> GrammarCompiler::compile(const StructuredOutputs& outputs) {
  outputs.validate();
  std::promise<std::shared_ptr<const CompiledGrammar>> promise;
  const std::string key = cache_key(outputs);
  Result result;
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = by_key_.find(key); it != by_key_.end()) {
      entries_.splice(entries_.begin(), entries_, it->second);
      result = it->second->result;
    } else {
      entries_.push_front({key, promise.get_future().share()});
      by_key_[entries_.front().key] = entries_.begin();
    }
  }
  if (result.valid()) return result.get();

  size_t bytes = key.size();
  std::shared_ptr<const CompiledGrammar> grammar;
  std::exception_ptr refusal;
  bool keep = true;
  try {
    grammar = make(outputs);
    bytes += grammar->impl().grammar.MemorySizeBytes();
    promise.set_value(grammar);
  } catch (const InvalidArgument&) {
    refusal = std::current_exception();
    promise.set_exception(refusal);
  } catch (...) {  // no process, no memory: another time it may work
    refusal = std::current_exception();
    promise.set_exception(refusal);
    keep = false;
  }
  const std::lock_guard lock(mutex_);
  const auto it = by_key_.find(key);  // there: shrink() leaves alone what is being made
  it->second->bytes = bytes;
  if (!keep) {
    const auto entry = it->second;
    by_key_.erase(it);
    entries_.erase(entry);
  }
  shrink();
  if (refusal) std::rethrow_exception(refusal);
  return grammar;
}

void GrammarCompiler::shrink() {
  size_t bytes = 0, count = 0;
  for (auto it = entries_.begin(); it != entries_.end();) {
    bytes += it->bytes;
    ++count;
    const bool surplus = count > 1 && (count > kMaxEntries || bytes > kMaxBytes);
    if (surplus && it->bytes > 0) {
      by_key_.erase(it->key);
      it = entries_.erase(it);
    } else {
      ++it;
    }
  }
}

std::shared_ptr<const CompiledGrammar> GrammarCompiler::make(const StructuredOutputs& outputs) {
  std::call_once(vocabulary_once_, [&] {
    std::vector<std::string> tokens(static_cast<size_t>(vocab_size_));
    const int64_t known = std::min<int64_t>(vocab_size_, tokenizer_.vocab_size());
    for (int32_t id = 0; id < known; ++id)
      tokens[static_cast<size_t>(id)] = tokenizer_.token_bytes(id);
    auto in_json = std::make_shared<TokenMask>((tokens.size() + 31) / 32);
    for (size_t id = 0; id < tokens.size(); ++id)
      if (!has_control_characters(tokens[id])) (*in_json)[id / 32] |= uint32_t{1} << (id % 32);
    vocabulary_ = std::make_unique<const Vocabulary>(Vocabulary{
        xgrammar::TokenizerInfo(tokens, xgrammar::VocabType::RAW, std::nullopt, eos_token_ids_),
        std::move(in_json)});
  });
  free_.acquire();
  struct Release {
    std::counting_semaphore<kMaxAtOnce>& semaphore;
    ~Release() { semaphore.release(); }
  } const release{free_};
  const xgrammar::TokenizerInfo& vocabulary = vocabulary_->info;
  auto compile = [&] {
    auto impl = std::make_unique<CompiledGrammar::Impl>(
        CompiledGrammar::Impl{compile_now(vocabulary, outputs), this, nullptr});
    if (is_json(outputs)) impl->allowed = vocabulary_->in_json;
    return std::make_shared<const CompiledGrammar>(std::move(impl));
  };
  std::string reason;
  if (outputs.json) reason = unsupported_in_schema(*outputs.json);
  if (outputs.structural_tag) reason = unsupported_in_structural_tag(*outputs.structural_tag);
  if (reason.empty())
    reason = plain_reason(rehearse([&] { try_matching(compile(), vocab_size_); }, limits_));
  if (!reason.empty()) throw InvalidArgument(kField, std::string(form_of(outputs)) + ": " + reason);
  return compile();
}

}  // namespace nanovllm
