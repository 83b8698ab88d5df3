#include "tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "nanovllm/error.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unicode_extras.h"

namespace nanovllm {

namespace {

struct MatchDataDeleter {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
struct JitStackDeleter {
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};

// A JIT stack starts on the machine stack (32 KiB); a pattern that repeats a group over a long text
// may need more, which is reserved only then and grows page by page.
constexpr size_t kJitStackMax = size_t{256} << 20;
constexpr uint32_t kHeapLimitKiB = 1 << 20;
constexpr size_t kMaxPattern = 1 << 16;

std::string error_text(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  bool jit = false;

  Code(const std::string& translated, const std::string& where) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
        pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
    if (!context) throw Error(where, "out of memory");
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context.get(), 100);
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                         &offset, context.get());
    if (code == nullptr) {
      throw Error(where, "the regular expression does not compile: " + error_text(error) +
                             " at byte " + std::to_string(offset) + " of " + translated);
    }
    jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  }
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
};

Regex::Regex(std::string_view pattern, const std::string& where) : where_(where) {
  if (!is_valid_utf8(pattern)) throw Error(where, "the pattern is not valid UTF-8");
  if (pattern.size() > kMaxPattern) throw Error(where, "the regular expression is too long");
  const std::string plain = translate_pattern(pattern, where, false);
  const std::string newer = translate_pattern(pattern, where, true);
  code_ = std::make_unique<Code>(plain, where);
  if (newer != plain) newer_code_ = std::make_unique<Code>(newer, where);
}

Regex::~Regex() = default;

void Regex::split(std::string_view text, std::vector<TextSpan>& spans) const {
  if (text.empty()) return;
  std::unique_ptr<pcre2_match_data, MatchDataDeleter> data(pcre2_match_data_create(1, nullptr));
  std::unique_ptr<pcre2_match_context, MatchContextDeleter> context(
      pcre2_match_context_create(nullptr));
  if (!data || !context) throw Error(where_, "out of memory");
  // Backtracking is linear in a sane pattern; the limit keeps an insane one from running for hours.
  const auto limit =
      static_cast<uint32_t>(std::min<size_t>(10'000'000 + 64 * text.size(), 0xFFFFFFFF));
  pcre2_set_match_limit(context.get(), limit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKiB);
  std::unique_ptr<pcre2_jit_stack, JitStackDeleter> stack;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const Code& code = newer_code_ && has_newer_characters(text) ? *newer_code_ : *code_;
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(data.get());

  size_t search = 0, covered = 0;
  bool matched_before = false;  // then `covered` is where the last match ended
  while (search <= text.size()) {
    int rc = code.jit ? pcre2_jit_match(code.code, subject, text.size(), search, 0, data.get(),
                                        context.get())
                      : pcre2_match(code.code, subject, text.size(), search, PCRE2_NO_UTF_CHECK,
                                    data.get(), context.get());
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !stack) {
      stack.reset(pcre2_jit_stack_create(size_t{64} << 10, kJitStackMax, nullptr));
      pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
      continue;
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code.code, subject, text.size(), search, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       data.get(), context.get());
    }
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0)
      throw Error(where_, "the regular expression gives up on this text: " + error_text(rc));
    const size_t begin = found[0], end = found[1];
    if (end < begin) throw Error(where_, "the regular expression uses \\K in a lookahead");
    if (begin == end && matched_before && begin == covered) {
      // An empty match right behind a match does not count; look again one character on.
      if (search >= text.size()) break;
      search += static_cast<size_t>(utf8_length(text[search]));
      continue;
    }
    if (begin > covered) spans.push_back({covered, begin, false});
    spans.push_back({begin, end, true});
    search = covered = end;
    matched_before = true;
  }
  if (covered < text.size()) spans.push_back({covered, text.size(), false});
}

std::string Regex::escape(std::string_view literal) {
  std::string out;
  for (const char c : literal) {
    if (is_ascii_punctuation(static_cast<unsigned char>(c))) out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

}  // namespace nanovllm
