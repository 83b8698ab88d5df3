#include "formats/gguf.h"
#include "nanovllm/error.h"
#include "tokenizer/pipeline.h"

namespace nanovllm {

std::unique_ptr<Tokenizer> Tokenizer::from_gguf(const GgufFile&) { return nullptr; }

}  // namespace nanovllm
