// Builds GGUF files in memory, right or wrong in any one respect.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace nanovllm {

// A byte string in the order that the file has it; numbers are little-endian.
class Bytes {
 public:
  template <typename T>
  Bytes& number(T value) {
    const char* p = reinterpret_cast<const char*>(&value);
    data_.append(p, sizeof value);
    return *this;
  }
  Bytes& u32(uint32_t v) { return number(v); }
  Bytes& u64(uint64_t v) { return number(v); }
  Bytes& text(std::string_view s) {
    u64(s.size());
    return raw(s);
  }
  Bytes& raw(std::string_view s) {
    data_ += s;
    return *this;
  }
  Bytes& align(size_t n) {
    data_.resize((data_.size() + n - 1) / n * n);
    return *this;
  }
  const std::string& str() const { return data_; }

 private:
  std::string data_;
};

inline Bytes gguf_header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
  return Bytes().raw("GGUF").u32(version).u64(tensors).u64(keys);
}

// A file with a key of every type and three tensors; the tests damage it.
inline std::string sample_gguf() {
  Bytes b = gguf_header(3, 16);
  b.text("general.architecture").u32(8).text("llama");
  b.text("k.u8").u32(0).number<uint8_t>(200);
  b.text("k.i8").u32(1).number<int8_t>(-100);
  b.text("k.u16").u32(2).number<uint16_t>(60000);
  b.text("k.i16").u32(3).number<int16_t>(-30000);
  b.text("k.u32").u32(4).number<uint32_t>(4000000000u);
  b.text("k.i32").u32(5).number<int32_t>(-2000000000);
  b.text("k.f32").u32(6).number<float>(0.5f);
  b.text("k.bool").u32(7).number<uint8_t>(1);
  b.text("k.u64").u32(10).number<uint64_t>(1ull << 62);
  b.text("k.i64").u32(11).number<int64_t>(-(1ll << 62));
  b.text("k.f64").u32(12).number<double>(0.1);
  b.text("k.strings").u32(9).u32(8).u64(3).text("a").text("").text("bc");
  b.text("k.ints").u32(9).u32(5).u64(3).number<int32_t>(1).number<int32_t>(-2).number<int32_t>(3);
  b.text("k.floats").u32(9).u32(6).u64(2).number<float>(1.5f).number<float>(-2);
  b.text("k.bools").u32(9).u32(7).u64(2).number<uint8_t>(0).number<uint8_t>(1);
  b.text("f32").u32(2).u64(3).u64(2).u32(0).u64(0);            // [2, 3]: 24 bytes
  b.text("q4_1").u32(1).u64(64).u32(3).u64(32);                // [64]: 40 bytes
  b.text("bf16").u32(3).u64(5).u64(1).u64(2).u32(30).u64(96);  // [2, 1, 5]: 20 bytes
  b.align(32);
  for (int i = 0; i < 6; ++i) b.number<float>(static_cast<float>(i));
  b.align(32);
  for (int i = 0; i < 40; ++i) b.number<uint8_t>(static_cast<uint8_t>(i));
  b.align(32);
  for (int i = 0; i < 10; ++i) b.number<uint16_t>(static_cast<uint16_t>(0x3f80 + i));
  return b.str();
}

}  // namespace nanovllm
