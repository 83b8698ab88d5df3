// The facts of each DType, in one table.
#include <array>

#include "backend/tensor.h"

namespace nanovllm {
namespace {

struct DTypeFacts {
  const char* name;
  int64_t block_elements;
  int64_t block_bytes;
};

// In the order of the enum. The block sizes are those of the structs in ggml-common.h.
constexpr std::array<DTypeFacts, 11> kFacts = {{
    {"F32", 1, 4},
    {"F16", 1, 2},
    {"BF16", 1, 2},
    {"Q8_0", 32, 2 + 32},                  // scale, 32 int8
    {"Q4_0", 32, 2 + 16},                  // scale, 32 nibbles
    {"Q4_1", 32, 2 + 2 + 16},              // scale, minimum, 32 nibbles
    {"Q5_0", 32, 2 + 4 + 16},              // scale, 32 fifth bits, 32 nibbles
    {"Q5_1", 32, 2 + 2 + 4 + 16},          // scale, minimum, fifth bits, nibbles
    {"Q4_K", 256, 2 + 2 + 12 + 128},       // scale, minimum, 8 x 2 six-bit factors, 256 nibbles
    {"Q5_K", 256, 2 + 2 + 12 + 32 + 128},  // the same and 256 fifth bits
    {"Q6_K", 256, 128 + 64 + 16 + 2},      // nibbles, upper two bits, 16 int8 factors, scale
}};

const DTypeFacts& facts(DType t) { return kFacts[static_cast<size_t>(t)]; }

}  // namespace

const char* dtype_name(DType t) { return facts(t).name; }
int64_t dtype_block_elements(DType t) { return facts(t).block_elements; }
int64_t dtype_block_bytes(DType t) { return facts(t).block_bytes; }

}  // namespace nanovllm
