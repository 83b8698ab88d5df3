#include "backend/cpu/quantize.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/panels.h"
#include "formats/quantization.h"

namespace nanovllm {
namespace {

constexpr int kGroup = 32;

// Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and vectorizes without SSE4.1.
float round_to_integer(float x) { return (x + 12582912.0f) - 12582912.0f; }

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
  const float scale = rounded_to_half((r.high - min) / kQ8MinLargest, &block.scale);
  const float inverse = scale > 0 ? 1 / scale : 0;
  for (int i = 0; i < kGroup; ++i) {
    const float q = round_to_integer((weights[i] - min) * inverse);
    const float most = kQ8MinLargest;
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
  float best = 0, best_scale = 0;
  float best_q[kGroup] = {};
  for (float end = -9.2f; end < -6.4f; end += 0.2f) {
    const float inverse = end / largest;
    float q[kGroup], wq[8] = {}, qq[8] = {};
    for (int i = 0; i < kGroup; i += 8) {
      for (int j = 0; j < 8; ++j) {
        const float rounded = round_to_integer(weights[i + j] * inverse);
        const float clamped = std::min(std::max(rounded, -8.0f), 7.0f);
        q[i + j] = clamped;
        wq[j] += weights[i + j] * clamped;
        qq[j] += clamped * clamped;
      }
    }
    float sum_wq = 0, sum_qq = 0;
    for (int j = 0; j < 8; ++j) sum_wq += wq[j], sum_qq += qq[j];
    if (sum_qq > 0 && sum_wq * sum_wq > best * sum_qq) {
      best = sum_wq * sum_wq / sum_qq;
      best_scale = sum_wq / sum_qq;
      std::copy_n(q, kGroup, best_q);
    }
  }
  rounded_to_half(best_scale, &block.scale);
  for (int i = 0; i < kGroup; ++i)
    block.q[i] = static_cast<uint8_t>(static_cast<int>(best_q[i]) + 8);
  return block;
}

}  // namespace nanovllm
