// Sixteen floats in plain C++: the readable specification of what the other vec_*.h do, and the
// tests' oracle.
//
// Each vec_*.h defines the same names in an unnamed namespace: V (16 floats), U (16 uint32) and the
// functions below.
#pragma once

#include <stdint.h>
#include <string.h>

#define NANO_VLLM_NO_UNROLL  // it gains nothing here

namespace {

constexpr int kTilePanels = 1;              // panels that a register tile takes
constexpr int kTileRows = 4;                // and rows of x
constexpr int kByteTileRows = 4;            // the same for dot products of bytes
constexpr int kRowPanels = 2;               // panels that one row of x takes at once,
constexpr bool kRowAsks = true;             // and whether it asks memory ahead itself
constexpr int kChains = 4;                  // sums of V that hide the latency of one
constexpr bool kTotalsInRegisters = false;  // there: of all groups, beside the sums of one
constexpr bool kNarrowSums = false;         // quants below 16 are summed in N
constexpr bool kHasPairs = false;           // bfloat16 dot products

struct V {
  float lane[16];
};
struct U {
  uint32_t lane[16];
};
struct I {
  int32_t lane[16];
};
using N = I;  // where kNarrowSums: sums of 16 bits, of eight dot_narrow at most

template <typename F>
inline V each(F f) {
  V v;
  for (int i = 0; i < 16; ++i) v.lane[i] = f(i);
  return v;
}

inline float float_of(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
inline uint32_t bits_of(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}
// IEEE half: exponent and fraction move up 13 bits, a multiplication by 2^112 fixes the bias and
// the subnormals.
inline float half_bits_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, magnitude = uint32_t(h & 0x7fff) << 13;
  if ((h & 0x7c00) == 0x7c00) return float_of(sign | 0x7f800000 | magnitude);
  return float_of(sign | bits_of(float_of(magnitude) * 0x1p112f));
}

inline V load(const float* p) {
  V v;
  memcpy(&v, p, 64);
  return v;
}
inline void store(float* p, V v) { memcpy(p, &v, 64); }
inline V set1(float x) {
  return each([&](int) { return x; });
}
inline V zero() { return set1(0); }
inline V add(V a, V b) {
  return each([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline V sub(V a, V b) {
  return each([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline V mul(V a, V b) {
  return each([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline V div(V a, V b) {
  return each([&](int i) { return a.lane[i] / b.lane[i]; });
}
// a * b + c, rounded once
inline V fma(V a, V b, V c) {
  return each([&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
}
// b where a is not a number
inline V max(V a, V b) {
  return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline V min(V a, V b) {
  return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
// value where x >= bound, else 0
inline V zero_below(V value, V x, V bound) {
  return each([&](int i) { return x.lane[i] >= bound.lane[i] ? value.lane[i] : 0.0f; });
}
// p * 2^n, where the low bits of t's representation hold n (see exp in math.h)
inline V scale_by_power(V p, V t) {
  return each([&](int i) { return float_of(bits_of(p.lane[i]) + (bits_of(t.lane[i]) << 23)); });
}
inline V load_bf16(const uint16_t* p) {
  return each([&](int i) { return float_of(uint32_t(p[i]) << 16); });
}
inline V load_f16(const uint16_t* p) {
  return each([&](int i) { return half_bits_to_float(p[i]); });
}
inline U load_u32(const void* p) {
  U u;
  memcpy(&u, p, 64);
  return u;
}
// the bfloat16 in the low and high half of each lane
inline V low_bf16(U u) {
  return each([&](int i) { return float_of(u.lane[i] << 16); });
}
inline V high_bf16(U u) {
  return each([&](int i) { return float_of(u.lane[i] & 0xffff0000u); });
}
// the unsigned field of `mask` at bit `shift` of each lane
inline V field(U u, int shift, uint32_t mask) {
  return each([&](int i) { return static_cast<float>((u.lane[i] >> shift) & mask); });
}

// byte j (0 .. 3) of each lane as a signed integer
inline V signed_byte(U u, int j) {
  return each([&](int i) { return static_cast<float>(static_cast<int8_t>(u.lane[i] >> (8 * j))); });
}
inline V load_i8(const int8_t* p) {
  return each([&](int i) { return static_cast<float>(p[i]); });
}
// bfloat16, rounded to nearest even; NaN stays NaN
inline void store_bf16(uint16_t* p, V v) {
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = bits_of(v.lane[i]);
    p[i] = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000
                                     ? (bits >> 16) | 0x40
                                     : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}
// lanes 1, 0, 3, 2, ...
inline V swap_pairs(V v) {
  return each([&](int i) { return v.lane[i ^ 1]; });
}
// p[0], p[0], p[1], p[1], ... p[7], p[7]
inline V load_twice(const float* p) {
  return each([&](int i) { return p[i / 2]; });
}
// The sum and the largest of the lanes, by halves: lane i with i + 8, then + 4, + 2, + 1.
inline float reduce_add(V v) {
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) v.lane[i] += v.lane[i + width];
  return v.lane[0];
}
inline float reduce_max(V v) {
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i)
      v.lane[i] = v.lane[i] > v.lane[i + width] ? v.lane[i] : v.lane[i + width];
  return v.lane[0];
}
// (u >> shift) & mask; to the left where shift is negative
inline U bits(U u, int shift, uint32_t mask) {
  for (uint32_t& lane : u.lane) lane = (shift < 0 ? lane << -shift : lane >> shift) & mask;
  return u;
}
inline U either(U a, U b) {
  for (int i = 0; i < 16; ++i) a.lane[i] |= b.lane[i];
  return a;
}
inline void store_u32(void* p, U u) { memcpy(p, &u, 64); }
inline V load_u8(const uint8_t* p) {
  return each([&](int i) { return static_cast<float>(p[i]); });
}
inline I set1_int(int32_t x) {
  I v;
  for (int32_t& lane : v.lane) lane = x;
  return v;
}
inline I add_int(I a, I b) {
  for (int i = 0; i < 16; ++i) a.lane[i] += b.lane[i];
  return a;
}
inline I sub_int(I a, I b) {
  for (int i = 0; i < 16; ++i) a.lane[i] -= b.lane[i];
  return a;
}
inline I bits_of(V v) {
  I a;
  memcpy(a.lane, v.lane, sizeof a.lane);
  return a;
}
inline I divide_by_256(I a) {  // rounded down
  for (int32_t& x : a.lane) x >>= 8;
  return a;
}
inline int32_t reduce_add(I a) {
  int32_t sum = 0;
  for (const int32_t x : a.lane) sum += x;
  return sum;
}
inline void store_low_bytes(int8_t* p, I a) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.lane[i] & 0xff);
}
inline V to_float(I a) {
  return each([&](int i) { return static_cast<float>(a.lane[i]); });
}
// acc + the sum of four unsigned bytes of w times the four signed bytes at x. A byte of w times the
// sum of two neighbouring magnitudes at x stays below 2^15 (see panels.h).
inline I dot_bytes(I acc, U w, const int8_t* x) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 4; ++j)
      acc.lane[i] += static_cast<int32_t>(w.lane[i] >> (8 * j) & 0xff) * x[j];
  return acc;
}
inline N zero_narrow() { return {}; }
inline N dot_narrow(N acc, U w, const int8_t* x) { return dot_bytes(acc, w, x); }
// The sums of two planes: 256 * high + low
inline I sum_planes(I high, I low) {
  for (int i = 0; i < 16; ++i) low.lane[i] += 256 * high.lane[i];
  return low;
}
inline I widened(N sums) { return sums; }
// acc + a pair of bfloat16 of each lane times the pair at x, the later one first
inline V dot_pairs(V acc, U w, const uint32_t* x) {
  return each([&](int i) {
    const float later =
        __builtin_fmaf(float_of(w.lane[i] & 0xffff0000u), float_of(*x & 0xffff0000u), acc.lane[i]);
    return __builtin_fmaf(float_of(w.lane[i] << 16), float_of(*x << 16), later);
  });
}

}  // namespace
