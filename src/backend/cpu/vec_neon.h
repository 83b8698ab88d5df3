// Sixteen floats as four Arm NEON registers (AArch64). Names and meaning as in vec_scalar.h.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

namespace {

constexpr int kTilePanels = 1;
constexpr int kTileRows = 6;  // 24 accumulators, 4 weights, 1 broadcast of 32 registers
constexpr int kByteTileRows = 4;
constexpr int kRowPanels = 2;
constexpr bool kRowAsks = true;
constexpr int kChains = 4;
constexpr bool kTotalsInRegisters = false;
constexpr bool kNarrowSums = false;
constexpr bool kHasPairs = false;

struct V {
  float32x4_t q[4];
};
struct U {
  uint32x4_t q[4];
};
struct I {
  int32x4_t q[4];
};
using N = I;

template <typename F>
inline V each(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}
inline uint32x4_t as_bits(float32x4_t v) { return vreinterpretq_u32_f32(v); }
inline float32x4_t as_floats(uint32x4_t v) { return vreinterpretq_f32_u32(v); }

inline V load(const float* p) {
  return each([&](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float* p, V v) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, v.q[i]);
}
inline V set1(float x) {
  return each([&](int) { return vdupq_n_f32(x); });
}
inline V zero() { return set1(0); }
inline V add(V a, V b) {
  return each([&](int i) { return vaddq_f32(a.q[i], b.q[i]); });
}
inline V sub(V a, V b) {
  return each([&](int i) { return vsubq_f32(a.q[i], b.q[i]); });
}
inline V mul(V a, V b) {
  return each([&](int i) { return vmulq_f32(a.q[i], b.q[i]); });
}
inline V div(V a, V b) {
  return each([&](int i) { return vdivq_f32(a.q[i], b.q[i]); });
}
inline V fma(V a, V b, V c) {
  return each([&](int i) { return vfmaq_f32(c.q[i], a.q[i], b.q[i]); });
}
inline V max(V a, V b) {
  return each([&](int i) { return vbslq_f32(vcgtq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]); });
}
inline V min(V a, V b) {
  return each([&](int i) { return vbslq_f32(vcltq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]); });
}
inline V zero_below(V value, V x, V bound) {
  return each([&](int i) {
    return as_floats(vandq_u32(as_bits(value.q[i]), vcgeq_f32(x.q[i], bound.q[i])));
  });
}
inline V scale_by_power(V p, V t) {
  return each([&](int i) {
    return as_floats(vaddq_u32(as_bits(p.q[i]), vshlq_n_u32(as_bits(t.q[i]), 23)));
  });
}
inline V load_bf16(const uint16_t* p) {
  return each([&](int i) { return as_floats(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
}
inline V load_f16(const uint16_t* p) {
  return each([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline U load_u32(const void* p) {
  const uint8_t* b = static_cast<const uint8_t*>(p);
  U u;
  for (int i = 0; i < 4; ++i) u.q[i] = vreinterpretq_u32_u8(vld1q_u8(b + 16 * i));
  return u;
}
inline V low_bf16(U u) {
  return each([&](int i) { return as_floats(vshlq_n_u32(u.q[i], 16)); });
}
inline V high_bf16(U u) {
  return each([&](int i) { return as_floats(vandq_u32(u.q[i], vdupq_n_u32(0xffff0000u))); });
}
inline V field(U u, int shift, uint32_t mask) {
  return each([&](int i) {
    const uint32x4_t shifted = vshlq_u32(u.q[i], vdupq_n_s32(-shift));
    return vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(mask)));
  });
}

inline V signed_byte(U u, int j) {
  return each([&](int i) {
    const int32x4_t top = vshlq_s32(vreinterpretq_s32_u32(u.q[i]), vdupq_n_s32(24 - 8 * j));
    return vcvtq_f32_s32(vshrq_n_s32(top, 24));
  });
}
inline V load_i8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}
inline void store_bf16(uint16_t* p, V v) {
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t bits = as_bits(v.q[i]);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    const uint32x4_t chosen = vbslq_u32(vceqq_f32(v.q[i], v.q[i]), rounded, quiet);
    vst1_u16(p + 4 * i, vshrn_n_u32(chosen, 16));
  }
}
inline V swap_pairs(V v) {
  return each([&](int i) { return vrev64q_f32(v.q[i]); });
}
inline V load_twice(const float* p) {
  const float32x4_t a = vld1q_f32(p), b = vld1q_f32(p + 4);
  return {{vzip1q_f32(a, a), vzip2q_f32(a, a), vzip1q_f32(b, b), vzip2q_f32(b, b)}};
}
inline float reduce_add(V v) {
  const float32x4_t four = vaddq_f32(vaddq_f32(v.q[0], v.q[2]), vaddq_f32(v.q[1], v.q[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float reduce_max(V v) {
  const float32x4_t low = vbslq_f32(vcgtq_f32(v.q[0], v.q[2]), v.q[0], v.q[2]);
  const float32x4_t high = vbslq_f32(vcgtq_f32(v.q[1], v.q[3]), v.q[1], v.q[3]);
  const float32x4_t four = vbslq_f32(vcgtq_f32(low, high), low, high);
  const float32x2_t a = vget_low_f32(four), b = vget_high_f32(four);
  const float32x2_t two = vbsl_f32(vcgt_f32(a, b), a, b);
  const float x = vget_lane_f32(two, 0), y = vget_lane_f32(two, 1);
  return x > y ? x : y;
}
inline U bits(U u, int shift, uint32_t mask) {
  for (uint32x4_t& q : u.q) q = vandq_u32(vshlq_u32(q, vdupq_n_s32(-shift)), vdupq_n_u32(mask));
  return u;
}
inline U either(U a, U b) {
  for (int i = 0; i < 4; ++i) a.q[i] = vorrq_u32(a.q[i], b.q[i]);
  return a;
}
inline void store_u32(void* p, U u) {
  for (int i = 0; i < 4; ++i)
    vst1q_u8(static_cast<uint8_t*>(p) + 16 * i, vreinterpretq_u8_u32(u.q[i]));
}
inline V load_u8(const uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
  return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
           vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
           vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
           vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))}};
}
inline I set1_int(int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {{v, v, v, v}};
}
inline I add_int(I a, I b) {
  for (int i = 0; i < 4; ++i) a.q[i] = vaddq_s32(a.q[i], b.q[i]);
  return a;
}
inline I sub_int(I a, I b) {
  for (int i = 0; i < 4; ++i) a.q[i] = vsubq_s32(a.q[i], b.q[i]);
  return a;
}
inline I bits_of(V v) {
  I a;
  for (int i = 0; i < 4; ++i) a.q[i] = vreinterpretq_s32_f32(v.q[i]);
  return a;
}
inline I divide_by_256(I a) {
  for (int i = 0; i < 4; ++i) a.q[i] = vshrq_n_s32(a.q[i], 8);
  return a;
}
inline int32_t reduce_add(I a) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(a.q[0], a.q[1]), vaddq_s32(a.q[2], a.q[3])));
}
inline void store_low_bytes(int8_t* p, I a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.q[0]), vmovn_s32(a.q[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.q[2]), vmovn_s32(a.q[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
inline V to_float(I a) {
  return each([&](int i) { return vcvtq_f32_s32(a.q[i]); });
}
// A product of two bytes, 255 * 128 at most, fits 16 bits.
inline I dot_bytes(I acc, U w, const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  const int16x8_t xs = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t bytes = vreinterpretq_u8_u32(w.q[i]);
    const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
    const int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(bytes)));
    const int32x4_t pairs_low = vpaddlq_s16(vmulq_s16(low, xs));
    const int32x4_t pairs_high = vpaddlq_s16(vmulq_s16(high, xs));
    acc.q[i] = vaddq_s32(acc.q[i], vpaddq_s32(pairs_low, pairs_high));
  }
  return acc;
}
inline N zero_narrow() { return set1_int(0); }
inline N dot_narrow(N acc, U w, const int8_t* x) { return dot_bytes(acc, w, x); }
inline I sum_planes(I high, I low) {
  for (int i = 0; i < 4; ++i) low.q[i] = vaddq_s32(vshlq_n_s32(high.q[i], 8), low.q[i]);
  return low;
}
inline I widened(N sums) { return sums; }
inline V dot_pairs(V acc, U, const uint32_t*) { return acc; }  // never called: kHasPairs is false

}  // namespace
