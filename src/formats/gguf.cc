#include "formats/gguf.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "formats/text.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

// Caps far above what any model states, so that a damaged count is refused before memory is spent
// on it.
constexpr uint64_t kMaxMetadata = 1 << 16;
constexpr uint64_t kMaxTensors = 1 << 20;
constexpr uint64_t kMaxNameBytes = 65535;        // the format's own limit for keys
constexpr uint64_t kMaxArrayElements = 1 << 24;  // a vocabulary has some hundred thousand entries
constexpr uint64_t kMaxTensorElements = uint64_t{1}
                                        << 60;  // of a tensor; its bytes then fit 63 bits
constexpr uint64_t kMaxAlignment = 1 << 20;
// The least bytes an entry takes: key length and one letter, type, one byte of value; name,
// dimensions, type and offset.
constexpr uint64_t kMinMetadataBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};
constexpr uint32_t kNumValueTypes = 13;
constexpr uint64_t kValueBytes[kNumValueTypes] = {1, 1, 2,  2, 4, 4, 4,
                                                  1, 8, 12, 8, 8, 8};  // the least, if it varies

struct TensorType {
  uint32_t number;
  const char* name;
  std::optional<DType> dtype;  // absent: known to ggml, not to this engine
};
constexpr TensorType kTensorTypes[] = {
    {0, "F32", DType::kF32},
    {1, "F16", DType::kF16},
    {2, "Q4_0", DType::kQ4_0},
    {3, "Q4_1", DType::kQ4_1},
    {6, "Q5_0", DType::kQ5_0},
    {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},
    {9, "Q8_1", {}},
    {10, "Q2_K", {}},
    {11, "Q3_K", {}},
    {12, "Q4_K", DType::kQ4_K},
    {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K},
    {15, "Q8_K", {}},
    {16, "IQ2_XXS", {}},
    {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},
    {19, "IQ1_S", {}},
    {20, "IQ4_NL", {}},
    {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},
    {23, "IQ4_XS", {}},
    {24, "I8", {}},
    {25, "I16", {}},
    {26, "I32", {}},
    {27, "I64", {}},
    {28, "F64", {}},
    {29, "IQ1_M", {}},
    {30, "BF16", DType::kBF16},
    {34, "TQ1_0", {}},
    {35, "TQ2_0", {}},
    {39, "MXFP4", {}},
};

DType tensor_dtype(uint32_t number, const std::string& where) {
  for (const TensorType& type : kTensorTypes) {
    if (type.number != number) continue;
    if (type.dtype) return *type.dtype;
    throw Error(where, "type " + std::to_string(number) + " (" + type.name +
                           ") is not supported; F32, F16, BF16, " +
                           "Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K are");
  }
  throw Error(where, "unknown tensor type " + std::to_string(number));
}

// Walks the bytes from the front; every read is checked against what is left.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), where_(path) {}

  // What is being read now, for messages: "path: key 'k'".
  void set_where(std::string where) { where_ = std::move(where); }
  const std::string& where() const { return where_; }
  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }

  [[noreturn]] void fail(const std::string& reason) const { throw Error(where_, reason); }

  template <typename T>
  T read(const char* what) {
    if (remaining() < sizeof(T)) {
      fail(std::string("the file ends inside ") + what + " (at byte " + std::to_string(position_) +
           " of " + std::to_string(bytes_.size()) + ")");
    }
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  std::string_view read_string(const char* what) {
    const uint64_t length = read<uint64_t>(what);
    if (length > remaining()) {
      fail(std::string("the length of ") + what + ", " + std::to_string(length) +
           " bytes, passes the end of the file (" + std::to_string(remaining()) + " bytes left)");
    }
    std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + position_, length);
    position_ += length;
    return text;
  }

 private:
  std::span<const std::byte> bytes_;
  std::string where_;
  size_t position_ = 0;
};

uint32_t read_value_type(Cursor& in, const char* what) {
  const uint32_t type = in.read<uint32_t>(what);
  if (type >= kNumValueTypes) in.fail("unknown value type " + std::to_string(type));
  return type;
}

int64_t read_int(Cursor& in, uint32_t type) {
  switch (type) {
    case kUint8:
      return in.read<uint8_t>("a value");
    case kInt8:
      return in.read<int8_t>("a value");
    case kUint16:
      return in.read<uint16_t>("a value");
    case kInt16:
      return in.read<int16_t>("a value");
    case kUint32:
      return in.read<uint32_t>("a value");
    case kInt32:
      return in.read<int32_t>("a value");
    case kInt64:
      return in.read<int64_t>("a value");
    case kBool: {
      const uint8_t value = in.read<uint8_t>("a value");
      if (value > 1) in.fail("a bool is " + std::to_string(value) + ", neither 0 nor 1");
      return value;
    }
    default: {
      const uint64_t value = in.read<uint64_t>("a value");
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        in.fail("the value " + std::to_string(value) + " is above 2^63 - 1");
      return static_cast<int64_t>(value);
    }
  }
}

double read_float(Cursor& in, uint32_t type) {
  return type == kFloat32 ? static_cast<double>(in.read<float>("a value"))
                          : in.read<double>("a value");
}

GgufFile::Value read_array(Cursor& in) {
  const uint32_t type = read_value_type(in, "an array's type");
  if (type == kArray) in.fail("arrays of arrays are not supported");
  const uint64_t count = in.read<uint64_t>("an array's length");
  if (count > in.remaining() / kValueBytes[type]) {
    in.fail("an array of " + std::to_string(count) + " values passes the end of the file (" +
            std::to_string(in.remaining()) + " bytes left)");
  }
  if (count > kMaxArrayElements) {
    in.fail("an array of " + std::to_string(count) + " values; at most " +
            std::to_string(kMaxArrayElements) + " are read");
  }
  auto fill = [&](auto values, auto read_one) -> GgufFile::Value {
    values.reserve(count);
    for (uint64_t i = 0; i < count; ++i) values.push_back(read_one());
    return values;
  };
  if (type == kString) return fill(GgufFile::Strings(), [&] { return in.read_string("a string"); });
  if (type == kFloat32 || type == kFloat64)
    return fill(std::vector<double>(), [&] { return read_float(in, type); });
  return fill(std::vector<int64_t>(), [&] { return read_int(in, type); });
}

GgufFile::Value read_value(Cursor& in) {
  const uint32_t type = read_value_type(in, "a value's type");
  switch (type) {
    case kString:
      return in.read_string("a string");
    case kArray:
      return read_array(in);
    case kFloat32:
    case kFloat64:
      return read_float(in, type);
    case kBool:
      return read_int(in, type) != 0;
    default:
      return read_int(in, type);
  }
}

// A tensor's name, type and shape, and where its data begin (relative to the data section).
struct TensorInfo {
  TensorView view;
  uint64_t offset = 0, bytes = 0;
};

TensorInfo read_tensor_info(Cursor& in, const std::string& path) {
  in.set_where(path);
  const std::string_view name = in.read_string("a tensor's name");
  if (name.empty() || name.size() > kMaxNameBytes)
    in.fail("a tensor's name has " + std::to_string(name.size()) + " bytes");
  in.set_where(path + ": tensor " + quote(name));

  TensorInfo info;
  info.view.name = name;
  const uint32_t num_dims = in.read<uint32_t>("its number of dimensions");
  if (num_dims < 1 || num_dims > 4)
    in.fail("has " + std::to_string(num_dims) + " dimensions; 1 to 4 are possible");
  uint64_t elements = 1;
  for (uint32_t i = 0; i < num_dims; ++i) {
    const uint64_t dim = in.read<uint64_t>("its shape");
    if (dim == 0) in.fail("dimension " + std::to_string(i) + " is 0");
    if (dim > kMaxTensorElements / elements)
      in.fail("its shape is absurd: more than 2^60 elements");
    elements *= dim;
    info.view.shape.push_back(static_cast<int64_t>(dim));
  }
  const int64_t row = info.view.shape[0];  // GGUF states the fastest dimension first
  std::reverse(info.view.shape.begin(), info.view.shape.end());

  const DType dtype = info.view.dtype = tensor_dtype(in.read<uint32_t>("its type"), in.where());
  if (row % dtype_block_elements(dtype) != 0) {
    in.fail("its rows have " + std::to_string(row) + " elements, not a multiple of " +
            std::to_string(dtype_block_elements(dtype)) + ", the block of " + dtype_name(dtype));
  }
  info.bytes = static_cast<uint64_t>(dtype_row_bytes(dtype, static_cast<int64_t>(elements)));
  info.offset = in.read<uint64_t>("its offset");
  return info;
}

void check_no_overlap(std::vector<const TensorInfo*> tensors, const std::string& path) {
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorInfo* a, const TensorInfo* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < tensors.size(); ++i) {
    const TensorInfo &a = *tensors[i - 1], &b = *tensors[i];
    if (b.offset - a.offset < a.bytes) {
      throw Error(path + ": tensor " + quote(b.view.name),
                  "begins at byte " + std::to_string(b.offset) + " of the data, inside tensor " +
                      quote(a.view.name) + " (bytes " + std::to_string(a.offset) + " to " +
                      std::to_string(a.offset + a.bytes) + ")");
    }
  }
}

}  // namespace

GgufFile::GgufFile(const std::string& path) : file_(path), bytes_(file_->bytes()), path_(path) {
  parse();
}

GgufFile::GgufFile(std::span<const std::byte> bytes, const std::string& name)
    : bytes_(bytes), path_(name) {
  parse();
}

void GgufFile::parse() {
  Cursor in(bytes_, path_);
  const std::string_view magic(reinterpret_cast<const char*>(bytes_.data()),
                               std::min<size_t>(bytes_.size(), 4));
  if (magic != "GGUF")
    throw Error(path_, "is not a GGUF file (it does not begin with the letters GGUF)");
  in.read<uint32_t>("the magic");
  const uint32_t version = in.read<uint32_t>("the version");
  if (version == 0x01000000 || version == 0x02000000 || version == 0x03000000)
    in.fail("is a big-endian GGUF file, which is not supported");
  if (version != 2 && version != 3)
    in.fail("GGUF version " + std::to_string(version) + " is not supported; 2 and 3 are");

  const uint64_t num_tensors = in.read<uint64_t>("the number of tensors");
  const uint64_t num_metadata = in.read<uint64_t>("the number of keys");
  if (num_metadata > std::min<uint64_t>(kMaxMetadata, in.remaining() / kMinMetadataBytes))
    in.fail("states " + std::to_string(num_metadata) +
            " keys, more than a file of its size can hold");
  if (num_tensors > std::min<uint64_t>(kMaxTensors, in.remaining() / kMinTensorBytes))
    in.fail("states " + std::to_string(num_tensors) +
            " tensors, more than a file of its size can hold");

  for (uint64_t i = 0; i < num_metadata; ++i) {
    in.set_where(path_);
    const std::string_view key = in.read_string("a key");
    if (key.empty() || key.size() > kMaxNameBytes)
      in.fail("a key has " + std::to_string(key.size()) + " bytes");
    in.set_where(path_ + ": key " + quote(key));
    if (!metadata_.emplace(key, read_value(in)).second) in.fail("appears twice");
  }

  // The shards of a split model each hold only some of the tensors.
  if (get_int("split.count").value_or(0) > 1) {
    throw Error(path_, "is one part of a model split into " +
                           std::to_string(*get_int("split.count")) +
                           " files (key 'split.count'), which is not supported; merge them with "
                           "`llama-gguf-split --merge`");
  }
  const int64_t alignment = get_int("general.alignment").value_or(32);
  if (alignment < 1 || alignment > static_cast<int64_t>(kMaxAlignment) ||
      (alignment & (alignment - 1)) != 0) {
    throw Error(path_ + ": key 'general.alignment'", std::to_string(alignment) +
                                                         " is not a power of two up to " +
                                                         std::to_string(kMaxAlignment));
  }

  std::vector<TensorInfo> infos;
  infos.reserve(num_tensors);
  for (uint64_t i = 0; i < num_tensors; ++i) infos.push_back(read_tensor_info(in, path_));

  // The data section begins at the next multiple of the alignment.
  const uint64_t align = static_cast<uint64_t>(alignment);
  const uint64_t data_start = (in.position() + align - 1) / align * align;
  const uint64_t data_bytes = data_start < bytes_.size() ? bytes_.size() - data_start : 0;
  std::vector<const TensorInfo*> all;
  for (TensorInfo& info : infos) {
    in.set_where(path_ + ": tensor " + quote(info.view.name));
    if (info.offset % align != 0)
      in.fail("its offset " + std::to_string(info.offset) + " is not a multiple of the alignment " +
              std::to_string(align));
    if (info.offset > data_bytes || info.bytes > data_bytes - info.offset) {
      in.fail("needs " + std::to_string(info.bytes) + " bytes at byte " +
              std::to_string(info.offset) + " of the data, which has only " +
              std::to_string(data_bytes) + " (is the file truncated?)");
    }
    info.view.data = bytes_.subspan(data_start + info.offset, info.bytes);
    if (!tensors_.emplace(info.view.name, info.view).second) in.fail("appears twice");
    all.push_back(&info);
  }
  check_no_overlap(std::move(all), path_);
}

}  // namespace nanovllm
