// Any bytes as a safetensors file: an Error, or tensors that lie inside the bytes.
#include "formats/safetensors.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "formats/quantization.h"
#include "nanovllm/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nanovllm;
  try {
    std::vector<std::string> skipped;
    for (const TensorView& view : parse_safetensors(
             {reinterpret_cast<const std::byte*>(data), size}, "fuzz.safetensors", &skipped)) {
      const int64_t elements = view.num_elements();
      if (static_cast<int64_t>(view.data.size()) != dtype_row_bytes(view.dtype, elements))
        std::abort();
      std::vector<float> values(static_cast<size_t>(elements));
      dequantize_row(view.dtype, view.data.data(), values.data(), elements);
    }
  } catch (const Error&) {
  }
  return 0;
}
