// Reader of GGUF v2 and v3 files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
// Untrusted bytes: counts, lengths and offsets are checked before anything is allocated from them;
// errors name the file, the tensor or key and the reason.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "backend/tensor.h"
#include "formats/mapped_file.h"

namespace nanovllm {

class GgufFile {
 public:
  // A metadata value. Integers of every width are int64_t (uint64 above 2^63-1 is refused), floats
  // are double.
  using Strings = std::vector<std::string_view>;  // views into the mapped file
  using Value = std::variant<bool, int64_t, double, std::string_view, Strings, std::vector<int64_t>,
                             std::vector<double>>;

  explicit GgufFile(const std::string& path);  // maps and parses; throws Error
  GgufFile(std::span<const std::byte> bytes,
           const std::string& name);  // parses bytes that outlive it (tests, fuzzing)

  const std::string& path() const { return path_; }
  const std::map<std::string, Value, std::less<>>& metadata() const { return metadata_; }
  // By name; shapes are reversed from GGUF's order, so that a linear weight reads [out_features,
  // in_features]. Types this reader does not know are an Error naming tensor and type number.
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

  // Typed access: nullopt / null if absent; Error "path: key 'k': is not a string" if of another
  // type. get_double takes integers too.
  std::optional<int64_t> get_int(std::string_view key) const;
  std::optional<double> get_double(std::string_view key) const;
  std::optional<bool> get_bool(std::string_view key) const;
  std::optional<std::string_view> get_string(std::string_view key) const;
  const Strings* get_strings(std::string_view key) const;
  const std::vector<int64_t>* get_ints(std::string_view key) const;  // integer and bool arrays
  const std::vector<double>* get_doubles(std::string_view key) const;
  void release(const TensorView& view) const;  // its file pages may be dropped

 private:
  void parse();
  std::optional<MappedFile> file_;
  std::span<const std::byte> bytes_;
  std::string path_;
  std::map<std::string, Value, std::less<>> metadata_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace nanovllm
