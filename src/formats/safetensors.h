// Reader of .safetensors files, single or sharded (model.safetensors.index.json). Untrusted bytes:
// everything is checked before it is used; errors name the file, the tensor and the reason.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "formats/mapped_file.h"

namespace nanovllm {

// Parses one file's header and validates every entry against the file's size (also: no overlap, no
// duplicate names). `name` is used in error messages; views point into `file`. F32, F16 and BF16
// are known; other types are kept out of the result and listed in `skipped` as "name (dtype)".
std::vector<TensorView> parse_safetensors(std::span<const std::byte> file, const std::string& name,
                                          std::vector<std::string>* skipped = nullptr);

class SafetensorsCheckpoint {
 public:
  // folder: holds model.safetensors, or model.safetensors.index.json and its shards. Throws Error.
  explicit SafetensorsCheckpoint(const std::string& folder);
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::vector<std::string>& skipped() const { return skipped_; }  // "name (dtype)"
  std::string describe(
      const std::string& tensor) const;        // "shard.safetensors: tensor 'x'" for messages
  void release(const TensorView& view) const;  // its file pages may be dropped

 private:
  std::vector<MappedFile> files_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, size_t> file_of_;
  std::vector<std::string> skipped_;
};

}  // namespace nanovllm
