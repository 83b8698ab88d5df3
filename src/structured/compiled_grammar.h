// CompiledGrammar: a form that text must have, ready to say which tokens of one model's vocabulary
// may come next. Immutable; any number of matchers on any threads share one. xgrammar stays behind
// Impl: this room's files are the only ones that see its headers.
#pragma once

#include <memory>

namespace nanovllm {

class CompiledGrammar {
 public:
  struct Impl;  // of xgrammar_types.h
  explicit CompiledGrammar(std::unique_ptr<const Impl> impl);
  ~CompiledGrammar();
  const Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<const Impl> impl_;
};

}  // namespace nanovllm
