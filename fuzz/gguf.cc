// Any bytes as a GGUF file: an Error, or tensors that lie inside the bytes and dequantize.
#include "formats/gguf.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/quantization.h"
#include "nanovllm/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nanovllm;
  try {
    const GgufFile file({reinterpret_cast<const std::byte*>(data), size}, "fuzz.gguf");
    std::vector<float> row;
    for (const auto& [name, view] : file.tensors()) {
      const int64_t elements = view.shape.back(), bytes = dtype_row_bytes(view.dtype, elements);
      row.resize(static_cast<size_t>(elements));
      for (size_t at = 0; at < view.data.size(); at += static_cast<size_t>(bytes)) {
        dequantize_row(view.dtype, view.data.data() + at, row.data(), elements);
      }
    }
    for (const auto& [key, value] : file.metadata()) {
      try {
        file.get_string(key);
      } catch (const Error&) {
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
