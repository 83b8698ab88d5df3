#include "formats/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "formats/quantization.h"

namespace nanovllm {
namespace {

constexpr int kGroup = 32;

// Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and vectorizes without SSE4.1.
constexpr float kRound = 12582912.0f;
float round_to_integer(float x) { return (x + kRound) - kRound; }

// Written out in vectors where the compiler does not find them.
using Four = float __attribute__((vector_size(16)));
constexpr int kFours = kGroup / 4;

struct Range {
  float low = 0, high = 0;
};
// Of the weights, and around 0; empty if one is not finite.
Range range(const float* weights) {
  Range r{weights[0], weights[0]};
  float broken = 0;
  for (int i = 0; i < kGroup; ++i) {
    r.low = std::min(r.low, weights[i]);
    r.high = std::max(r.high, weights[i]);
    broken += weights[i] * 0;
  }
  return broken == 0 ? r : Range{};
}

float rounded_to_half(float x, uint16_t* bits) {
  *bits = float_to_half(std::clamp(x, -65504.0f, 65504.0f));
  return half_to_float(*bits);
}

}  // namespace

QuantBlock quantize_int8(const float* weights) {
  QuantBlock block;
  const Range r = range(weights);
  const float min = rounded_to_half(r.low, &block.min);
  const float scale = rounded_to_half((r.high - min) / kInt8Largest, &block.scale);
  const float inverse = scale > 0 ? 1 / scale : 0;
  for (int i = 0; i < kGroup; ++i) {
    const float q = round_to_integer((weights[i] - min) * inverse);
    const float most = kInt8Largest;
    block.q[i] = static_cast<uint8_t>(q > 0 ? std::min(q, most) : 0.0f);
  }
  return block;
}

QuantBlock quantize_int4(const float* weights) {
  QuantBlock block;
  std::fill_n(block.q, kGroup, uint8_t{8});
  const Range r = range(weights);
  const float largest = -r.low > r.high ? r.low : r.high;
  if (largest == 0) return block;
  // For given quants the best scale is sum(w q) / sum(q q), which takes sum(w q)^2 / sum(q q) off
  // the squared error. Quants are tried for scales around the one that puts the extreme at -8.
  Four w[kFours], best_q[kFours] = {};
  std::memcpy(w, weights, sizeof w);
  float best = 0, best_scale = 0;
  for (float end = -9.2f; end < -6.4f; end += 0.2f) {
    const float inverse = end / largest;
    Four q[kFours], wq[2] = {}, qq[2] = {};
    for (int i = 0; i < kFours; ++i) {
      Four x = (w[i] * inverse + kRound) - kRound;
      x = x < -8 ? Four{} - 8 : x;
      q[i] = x > 7 ? Four{} + 7 : x;
      wq[i % 2] += w[i] * q[i];
      qq[i % 2] += q[i] * q[i];
    }
    float sum_wq = 0, sum_qq = 0;
    for (int i = 0; i < 8; ++i) sum_wq += wq[i / 4][i % 4], sum_qq += qq[i / 4][i % 4];
    if (sum_qq > 0 && sum_wq * sum_wq > best * sum_qq) {
      best = sum_wq * sum_wq / sum_qq;
      best_scale = sum_wq / sum_qq;
      std::copy_n(q, kFours, best_q);
    }
  }
  rounded_to_half(best_scale, &block.scale);
  for (int i = 0; i < kGroup; ++i)
    block.q[i] = static_cast<uint8_t>(static_cast<int>(best_q[i / 4][i % 4]) + 8);
  return block;
}

uint8_t float_to_float8(float x) {
  const uint8_t sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x)) return sign | 0x7f;
  const float size = std::min(std::fabs(x), kFloat8Largest);
  if (size < 0x1p-6f) {  // multiples of 2^-9: those are as far apart as floats around 1.5 * 2^14
    const float rounded = (size + 0x1.8p14f) - 0x1.8p14f;
    return static_cast<uint8_t>(sign | static_cast<int>(rounded * 0x1p9f));
  }
  uint32_t bits = std::bit_cast<uint32_t>(size);
  bits += 0x7ffff + (bits >> 20 & 1);  // of 23 bits of mantissa, 20 go
  return static_cast<uint8_t>(sign | ((bits >> 20) - ((127 - 7) << 3)));
}

float float8_to_float(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                   : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  const float value = (bits & 0x7f) == 0x7f ? std::nanf("") : size;
  return bits & 0x80 ? -value : value;
}

}  // namespace nanovllm
