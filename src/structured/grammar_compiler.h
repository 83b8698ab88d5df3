// GrammarCompiler: schemas, regular expressions, choices and grammars to CompiledGrammars of one
// model.
//
// Owned by the LLM; any thread may call it. What it was given comes from strangers: compiling is
// rehearsed in a child process first, within a limit on time and memory, and what does not fit is
// refused. Results, refusals among them, are kept: the last kMaxEntries, and no more than
// kMaxBytes. Two requests that want the same at once wait for one compilation.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <semaphore>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "nanovllm/structured_outputs.h"
#include "structured/compiled_grammar.h"
#include "structured/rehearsal.h"

namespace nanovllm {

class Tokenizer;

class GrammarCompiler {
 public:
  // vocab_size: of the model's logits. eos_token_ids: what may follow a complete text. The
  // tokenizer outlives this.
  GrammarCompiler(const Tokenizer& tokenizer, int64_t vocab_size,
                  std::vector<int32_t> eos_token_ids, const RehearsalLimits& limits);
  ~GrammarCompiler();

  // Throws InvalidArgument("structured_outputs", "FORM: reason").
  std::shared_ptr<const CompiledGrammar> compile(const StructuredOutputs& outputs);
  bool made(const CompiledGrammar& grammar) const;

 private:
  static constexpr size_t kMaxEntries = 256, kMaxBytes = size_t{128} << 20;
  static constexpr int kMaxAtOnce = 4;  // compilations, each at most a thread and a child

  struct Vocabulary;
  using Result = std::shared_future<std::shared_ptr<const CompiledGrammar>>;
  struct Entry {
    std::string key;
    Result result;
    size_t bytes = 0;  // 0 while it is being made
  };
  std::shared_ptr<const CompiledGrammar> make(const StructuredOutputs& outputs);
  void shrink();  // mutex_ is held

  const Tokenizer& tokenizer_;
  const int64_t vocab_size_;
  const std::vector<int32_t> eos_token_ids_;
  const RehearsalLimits limits_;

  std::once_flag vocabulary_once_;  // sorting it takes a while, and not every model needs it
  std::unique_ptr<const Vocabulary> vocabulary_;
  std::counting_semaphore<kMaxAtOnce> free_{kMaxAtOnce};

  std::mutex mutex_;          // of what follows
  std::list<Entry> entries_;  // the latest used first
  std::unordered_map<std::string_view, std::list<Entry>::iterator> by_key_;  // views of them
};

}  // namespace nanovllm
