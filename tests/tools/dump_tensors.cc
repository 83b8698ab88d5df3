// dump_tensors MODEL [OUT]: one JSON line a tensor on stdout, their values as float32 in OUT, one
// after the other. The Python tests compare what it prints with other readers of the same file.
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "formats/quantization.h"
#include "formats/safetensors.h"
#include "nanovllm/error.h"

namespace {

using namespace nanovllm;

void dump(const std::map<std::string, TensorView>& tensors, const char* out_path) {
  std::optional<std::ofstream> out;
  if (out_path) out.emplace(out_path, std::ios::binary);
  std::vector<float> row;
  for (const auto& [name, view] : tensors) {
    const nlohmann::json line = {
        {"name", name}, {"dtype", dtype_name(view.dtype)}, {"shape", view.shape}};
    std::puts(line.dump().c_str());
    if (!out || view.num_elements() == 0) continue;
    const int64_t elements = view.shape.empty() ? 1 : view.shape.back();
    const int64_t bytes = dtype_row_bytes(view.dtype, elements);
    row.resize(static_cast<size_t>(elements));
    for (const std::byte* p = view.data.data(); p != view.data.data() + view.data.size();
         p += bytes) {
      dequantize_row(view.dtype, p, row.data(), elements);
      out->write(reinterpret_cast<const char*>(row.data()), elements * 4);
    }
  }
  if (out && !out->flush()) throw Error(out_path, "cannot be written");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) return std::fputs("usage: dump_tensors MODEL [OUT]\n", stderr), 2;
  const std::string model = argv[1];
  try {
    if (model.ends_with(".gguf")) {
      dump(GgufFile(model).tensors(), argv[2]);
    } else if (model.ends_with(".safetensors")) {
      MappedFile file(model);
      std::map<std::string, TensorView> tensors;
      for (TensorView& view : parse_safetensors(file.bytes(), model)) {
        tensors.emplace(view.name, view);
      }
      dump(tensors, argv[2]);
    } else {
      dump(SafetensorsCheckpoint(model).tensors(), argv[2]);
    }
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
