// Typed access to a GGUF file's metadata.
#include "formats/gguf.h"
#include "formats/text.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

template <typename T>
const T* find_as(const GgufFile& file, std::string_view key, const char* type_name) {
  const auto it = file.metadata().find(key);
  if (it == file.metadata().end()) return nullptr;
  const T* value = std::get_if<T>(&it->second);
  if (!value) throw Error(file.path() + ": key " + quote(key), std::string("is not ") + type_name);
  return value;
}

template <typename T>
std::optional<T> copied(const T* value) {
  return value ? std::optional<T>(*value) : std::nullopt;
}

}  // namespace

std::optional<int64_t> GgufFile::get_int(std::string_view key) const {
  return copied(find_as<int64_t>(*this, key, "an integer"));
}

std::optional<double> GgufFile::get_double(std::string_view key) const {
  const auto it = metadata_.find(key);
  if (it != metadata_.end()) {
    if (const int64_t* integer = std::get_if<int64_t>(&it->second))
      return static_cast<double>(*integer);
  }
  return copied(find_as<double>(*this, key, "a number"));
}

std::optional<bool> GgufFile::get_bool(std::string_view key) const {
  return copied(find_as<bool>(*this, key, "a bool"));
}

std::optional<std::string_view> GgufFile::get_string(std::string_view key) const {
  return copied(find_as<std::string_view>(*this, key, "a string"));
}

const GgufFile::Strings* GgufFile::get_strings(std::string_view key) const {
  return find_as<Strings>(*this, key, "an array of strings");
}

const std::vector<int64_t>* GgufFile::get_ints(std::string_view key) const {
  return find_as<std::vector<int64_t>>(*this, key, "an array of integers");
}

const std::vector<double>* GgufFile::get_doubles(std::string_view key) const {
  return find_as<std::vector<double>>(*this, key, "an array of floats");
}

void GgufFile::release(const TensorView& view) const {
  if (file_) file_->release(view.data);
}

}  // namespace nanovllm
