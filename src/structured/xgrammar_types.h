// For the .cc files of this room: xgrammar's own types.
#pragma once

#include <xgrammar/xgrammar.h>

#include <cstdint>
#include <vector>

#include "structured/compiled_grammar.h"

namespace nanovllm {

// Bit id % 32 of word id / 32 is a token's.
using TokenMask = std::vector<uint32_t>;

struct CompiledGrammar::Impl {
  xgrammar::CompiledGrammar grammar;
  const void* compiler;                      // who made it, to be compared only
  std::shared_ptr<const TokenMask> allowed;  // no other token may come; null: any
};

}  // namespace nanovllm
