#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace nanovllm {

void fill_rope_table(const RopeConfig& rope, int64_t head_dim, int64_t max_positions,
                     const float* freq_factors, float* table) {
  const int64_t half = head_dim / 2;
  std::vector<float> inv_freq(half);
  float amplitude = 1.0f;
  for (int64_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    inv_freq[i] = 1.0f / static_cast<float>(std::pow(rope.theta, static_cast<double>(exponent)));
  }
  if (rope.scaling == RopeConfig::Scaling::kLinear) {
    for (float& f : inv_freq) f /= static_cast<float>(rope.factor);
  } else if (rope.scaling == RopeConfig::Scaling::kLlama3) {
    const double low_wavelength = rope.original_max_position_embeddings / rope.low_freq_factor;
    const double high_wavelength = rope.original_max_position_embeddings / rope.high_freq_factor;
    for (float& f : inv_freq) {
      const double wavelength = 2 * M_PI / f;
      if (wavelength < high_wavelength) continue;
      if (wavelength > low_wavelength) {
        f = static_cast<float>(f / rope.factor);
      } else {
        const double smooth =
            (rope.original_max_position_embeddings / wavelength - rope.low_freq_factor) /
            (rope.high_freq_factor - rope.low_freq_factor);
        f = static_cast<float>((1 - smooth) * f / rope.factor + smooth * f);
      }
    }
  } else if (rope.scaling == RopeConfig::Scaling::kYarn) {  // https://arxiv.org/abs/2309.00071
    auto correction_dim = [&](double rotations) {
      return head_dim * std::log(rope.original_max_position_embeddings / (rotations * 2 * M_PI)) /
             (2 * std::log(rope.theta));
    };
    double low = correction_dim(rope.beta_fast), high = correction_dim(rope.beta_slow);
    if (rope.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, static_cast<double>(head_dim - 1));
    if (low == high) high += 0.001;
    for (int64_t i = 0; i < half; ++i) {
      const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      inv_freq[i] = static_cast<float>(inv_freq[i] / rope.factor * ramp + inv_freq[i] * (1 - ramp));
    }
    auto mscale = [&](double m) {
      return rope.factor <= 1 ? 1.0 : 0.1 * m * std::log(rope.factor) + 1.0;
    };
    amplitude = static_cast<float>(rope.attention_factor != 0 ? rope.attention_factor
                                   : rope.mscale != 0 && rope.mscale_all_dim != 0
                                       ? mscale(rope.mscale) / mscale(rope.mscale_all_dim)
                                       : mscale(1.0));
  }
  if (freq_factors)
    for (int64_t i = 0; i < half; ++i) inv_freq[i] /= freq_factors[i];
  for (int64_t p = 0; p < max_positions; ++p) {
    float* row = table + p * head_dim;
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * inv_freq[i];
      row[i] = std::cos(angle) * amplitude;
      row[half + i] = std::sin(angle) * amplitude;
    }
  }
}

}  // namespace nanovllm
