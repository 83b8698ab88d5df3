#include "formats/safetensors.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include "formats/json.h"
#include "formats/text.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes =
    100'000'000;  // the limit of the format's reference implementation
constexpr uint64_t kMaxElements = uint64_t{1} << 59;  // of a tensor; its bits then fit 63 bits
constexpr int kHeaderDepth = 3;                       // the header, a tensor, its shape

struct ElementType {
  const char* name;
  int bits;
  std::optional<DType> dtype;  // absent: in the format's list, not in this engine's
};
constexpr ElementType kElementTypes[] = {
    {"F32", 32, DType::kF32},
    {"F16", 16, DType::kF16},
    {"BF16", 16, DType::kBF16},
    {"F64", 64, {}},
    {"I64", 64, {}},
    {"I32", 32, {}},
    {"I16", 16, {}},
    {"I8", 8, {}},
    {"U64", 64, {}},
    {"U32", 32, {}},
    {"U16", 16, {}},
    {"U8", 8, {}},
    {"BOOL", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"F4", 4, {}},
    {"C64", 64, {}},
};

const ElementType& element_type(const json& entry, const std::string& where) {
  const auto it = entry.find("dtype");
  if (it == entry.end() || !it->is_string()) throw Error(where, "has no \"dtype\" string");
  const std::string& name = it->get_ref<const std::string&>();
  for (const ElementType& type : kElementTypes) {
    if (name == type.name) return type;
  }
  throw Error(where, "unknown dtype " + quote(name));
}

// The field as a list of non-negative integers. nlohmann keeps exactly those as unsigned.
std::vector<uint64_t> unsigned_list(const json& entry, const char* field,
                                    const std::string& where) {
  const auto it = entry.find(field);
  if (it == entry.end() || !it->is_array())
    throw Error(where, std::string("has no \"") + field + "\" list");
  std::vector<uint64_t> values;
  for (const json& value : *it) {
    if (!value.is_number_unsigned())
      throw Error(
          where, std::string("\"") + field + "\" holds something other than non-negative integers");
    values.push_back(value.get<uint64_t>());
  }
  return values;
}

struct Entry {
  TensorView view;
  uint64_t begin = 0, end = 0;  // in the data section
  bool supported = false;       // the others take part in the check of the layout only
};

bool is_file(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && !S_ISDIR(info.st_mode);
}

}  // namespace

std::vector<TensorView> parse_safetensors(std::span<const std::byte> file, const std::string& name,
                                          std::vector<std::string>* skipped) {
  uint64_t header_bytes = 0;
  if (file.size() < sizeof header_bytes)
    throw Error(name,
                "is too short for a safetensors file (" + std::to_string(file.size()) + " bytes)");
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  if (header_bytes > file.size() - sizeof header_bytes) {
    throw Error(name, "its header of " + std::to_string(header_bytes) +
                          " bytes passes the end of the file (" + std::to_string(file.size()) +
                          " bytes)");
  }
  if (header_bytes > kMaxHeaderBytes)
    throw Error(name,
                "its header of " + std::to_string(header_bytes) + " bytes is larger than 100 MB");
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof header_bytes,
                              header_bytes);
  if (text.empty() || text[0] != '{') throw Error(name, "its header does not begin with '{'");
  const json header = parse_json(text, name + ": header", kHeaderDepth);
  if (!header.is_object()) throw Error(name, "its header is not a JSON object");

  const std::span<const std::byte> data = file.subspan(sizeof header_bytes + header_bytes);
  std::vector<Entry> entries;
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__") continue;
    const std::string where = name + ": tensor " + quote(key);
    if (!value.is_object()) throw Error(where, "its entry is not a JSON object");
    const ElementType& type = element_type(value, where);
    Entry entry;
    uint64_t elements = 1;
    bool zero = false;
    for (uint64_t dim : unsigned_list(value, "shape", where)) {
      // A dimension of 0 makes an empty tensor, but the others must make sense together all the
      // same.
      const uint64_t factor = std::max<uint64_t>(dim, 1);
      if (factor > kMaxElements / elements)
        throw Error(where, "its shape is absurd: more than 2^59 elements");
      elements *= factor;
      zero |= dim == 0;
      entry.view.shape.push_back(static_cast<int64_t>(dim));
    }
    if (zero) elements = 0;
    const std::vector<uint64_t> offsets = unsigned_list(value, "data_offsets", where);
    if (offsets.size() != 2) throw Error(where, "\"data_offsets\" does not hold two numbers");
    entry.begin = offsets[0];
    entry.end = offsets[1];
    if (entry.begin > entry.end) throw Error(where, "its data end before they begin");
    if (entry.end > data.size()) {
      throw Error(where, "its data (bytes " + std::to_string(entry.begin) + " to " +
                             std::to_string(entry.end) + ") pass the end of the file, which has " +
                             std::to_string(data.size()) + " bytes of data (is it truncated?)");
    }
    const uint64_t bits = elements * static_cast<uint64_t>(type.bits);
    if (bits % 8 != 0 || bits / 8 != entry.end - entry.begin) {
      throw Error(where, "its shape needs " + std::to_string((bits + 7) / 8) + " bytes of " +
                             type.name + " but its data_offsets hold " +
                             std::to_string(entry.end - entry.begin));
    }
    entry.view.name = key;
    entry.view.data = data.subspan(entry.begin, entry.end - entry.begin);
    entry.supported = type.dtype.has_value();
    if (type.dtype) entry.view.dtype = *type.dtype;
    if (!type.dtype && skipped) skipped->push_back(key + " (" + type.name + ")");
    entries.push_back(std::move(entry));
  }

  // The format leaves no holes: the tensors, in order, cover the data exactly.
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t covered = 0;
  for (const Entry& entry : entries) {
    const std::string where = name + ": tensor " + quote(entry.view.name);
    const std::string at = "data that begin at byte " + std::to_string(entry.begin);
    if (entry.begin < covered)
      throw Error(where,
                  at + " overlap another tensor's, which end at byte " + std::to_string(covered));
    if (entry.begin > covered)
      throw Error(where, at + " leave a hole after the tensor before, which ends at byte " +
                             std::to_string(covered));
    covered = entry.end;
  }
  if (covered != data.size()) {
    throw Error(name, "has " + std::to_string(data.size() - covered) +
                          " bytes after the last tensor that belong to none");
  }

  std::vector<TensorView> views;
  for (Entry& entry : entries) {
    if (entry.supported) views.push_back(std::move(entry.view));
  }
  return views;
}

SafetensorsCheckpoint::SafetensorsCheckpoint(const std::string& folder) {
  const std::string single = folder + "/model.safetensors", index = single + ".index.json";
  if (is_file(single)) {
    files_.emplace_back(single);
    for (TensorView& view : parse_safetensors(files_[0].bytes(), single, &skipped_)) {
      file_of_[view.name] = 0;
      tensors_.emplace(view.name, std::move(view));
    }
    return;
  }
  if (!is_file(index))
    throw Error(folder, "holds neither model.safetensors nor model.safetensors.index.json");

  const json document = read_json_file(index);
  const auto map = document.is_object() ? document.find("weight_map") : document.end();
  if (map == document.end() || !map->is_object() || map->empty())
    throw Error(index, "has no \"weight_map\" object with entries");
  std::map<std::string, std::string> shard_of;             // tensor -> shard
  std::map<std::string, std::vector<std::string>> shards;  // shard -> its tensors
  for (const auto& [tensor, value] : map->items()) {
    const std::string where = index + ": tensor " + quote(tensor);
    if (!value.is_string()) throw Error(where, "its shard is not a string");
    const std::string& shard = value.get_ref<const std::string&>();
    // Only a plain name: an index must not make the engine read files outside the model's folder.
    const bool plain = !shard.empty() && shard[0] != '.' &&
                       shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    if (!plain) throw Error(where, "its shard " + quote(shard) + " is not a plain file name");
    shard_of[tensor] = shard;
    shards[shard].push_back(tensor);
  }

  for (const auto& [shard, listed] : shards) {
    const std::string path = folder + "/" + shard;
    files_.emplace_back(path);
    std::vector<std::string> other_types;
    std::vector<TensorView> views = parse_safetensors(files_.back().bytes(), path, &other_types);
    std::set<std::string> present;
    for (TensorView& view : views) {
      const auto it = shard_of.find(view.name);
      if (it == shard_of.end()) {
        throw Error(path + ": tensor " + quote(view.name),
                    "is not listed in model.safetensors.index.json");
      }
      if (it->second != shard) {
        throw Error(
            path + ": tensor " + quote(view.name),
            "is in this shard, but model.safetensors.index.json places it in " + quote(it->second));
      }
      present.insert(view.name);
      file_of_[view.name] = files_.size() - 1;
      tensors_.emplace(view.name, std::move(view));
    }
    for (const std::string& text : other_types) present.insert(text.substr(0, text.rfind(" (")));
    for (const std::string& tensor : listed) {
      if (!present.count(tensor)) {
        throw Error(path + ": tensor " + quote(tensor),
                    "is missing, though model.safetensors.index.json places it in this shard");
      }
    }
    skipped_.insert(skipped_.end(), other_types.begin(), other_types.end());
  }
}

std::string SafetensorsCheckpoint::describe(const std::string& tensor) const {
  const auto it = file_of_.find(tensor);
  return (it == file_of_.end() ? "" : files_[it->second].path() + ": ") + "tensor " + quote(tensor);
}

void SafetensorsCheckpoint::release(const TensorView& view) const {
  const auto it = file_of_.find(view.name);
  if (it != file_of_.end()) files_[it->second].release(view.data);
}

}  // namespace nanovllm
