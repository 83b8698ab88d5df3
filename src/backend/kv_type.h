// How the keys and values of the cache are kept. In a header of its own, free of the standard
// library, because the kernels need it too.
#pragma once

namespace nanovllm {

// kInt8: 8-bit integers with one float scale for each (token, kv head), keys and values apart.
enum class KVType { kFloat32, kBFloat16, kInt8 };

}  // namespace nanovllm
