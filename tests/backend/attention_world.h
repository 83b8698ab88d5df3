// What the tests of attention share, whatever the backend: random sequences, the definition of
// rope, cache and attention in double, and a run of the sequences in steps of random sizes, orders
// and places in the cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "backend/backend.h"
#include "backend/random_tensor.h"
#include "formats/quantization.h"

namespace nanovllm {

struct AttentionShape {
  int num_heads, num_kv_heads, head_dim, rotary_dim;
  bool interleaved = false, norm = false;
  int64_t window = 0;
  KVType type = KVType::kFloat32;

  int64_t row() const { return (num_heads + 2 * int64_t{num_kv_heads}) * head_dim; }
};

// A few sequences of given lengths, their qkv rows before rope, and everything rope needs.
struct AttentionWorld {
  AttentionWorld(const AttentionShape& s, std::vector<int> lengths_, uint32_t seed)
      : shape(s), lengths(std::move(lengths_)) {
    Random random(seed);
    int longest = 0;
    for (const int n : lengths) {
      qkv.push_back(random.normals(n * s.row()));
      longest = std::max(longest, n);
    }
    q_norm = random.normals(s.head_dim);
    k_norm = random.normals(s.head_dim);
    cos_sin.resize(static_cast<size_t>(longest) * s.rotary_dim);
    for (int p = 0; p < longest; ++p) {
      for (int i = 0; i < s.rotary_dim / 2; ++i) {
        const double angle = p * std::pow(10000.0, -2.0 * i / s.rotary_dim);
        cos_sin[p * s.rotary_dim + i] = static_cast<float>(std::cos(angle));
        cos_sin[p * s.rotary_dim + s.rotary_dim / 2 + i] = static_cast<float>(std::sin(angle));
      }
    }
  }

  AttentionShape shape;
  std::vector<int> lengths;
  std::vector<std::vector<float>> qkv;
  std::vector<float> q_norm, k_norm, cos_sin;
};

using Outputs = std::vector<std::vector<float>>;  // one a sequence: [length, num_heads * head_dim]

// What the cache keeps of a head.
inline void round_as_cached(KVType type, double* x, int dim) {
  double largest = 0;
  for (int d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(x[d]));
  for (int d = 0; d < dim; ++d) {
    if (type == KVType::kBFloat16)
      x[d] = double{bfloat16_to_float(float_to_bfloat16(static_cast<float>(x[d])))};
    if (type == KVType::kInt8 && largest > 0)
      x[d] = std::nearbyint(x[d] / largest * 127) * largest / 127;
  }
}

// The definition, in double.
inline Outputs oracle(const AttentionWorld& w) {
  const AttentionShape& s = w.shape;
  const int dim = s.head_dim, group = s.num_heads / s.num_kv_heads;
  Outputs outputs;
  for (size_t q = 0; q < w.lengths.size(); ++q) {
    const int length = w.lengths[q];
    std::vector<double> x(w.qkv[q].begin(), w.qkv[q].end());
    for (int p = 0; p < length; ++p) {
      for (int h = 0; h < s.num_heads + s.num_kv_heads; ++h) {
        double* head = &x[p * s.row() + h * dim];
        if (s.norm) {
          const std::vector<float>& weight = h < s.num_heads ? w.q_norm : w.k_norm;
          double sum = 0;
          for (int d = 0; d < dim; ++d) sum += head[d] * head[d];
          for (int d = 0; d < dim; ++d) head[d] = head[d] / std::sqrt(sum / dim + 1e-6) * weight[d];
        }
        const int half = s.rotary_dim / 2;
        for (int i = 0; i < half; ++i) {
          double& a = head[s.interleaved ? 2 * i : i];
          double& b = head[s.interleaved ? 2 * i + 1 : i + half];
          const double c = w.cos_sin[p * s.rotary_dim + i],
                       sn = w.cos_sin[p * s.rotary_dim + half + i];
          const double a0 = a, b0 = b;
          a = a0 * c - b0 * sn;
          b = b0 * c + a0 * sn;
        }
      }
    }
    for (int p = 0; p < length; ++p)
      for (int h = s.num_heads; h < s.num_heads + 2 * s.num_kv_heads; ++h)
        round_as_cached(s.type, &x[p * s.row() + h * dim], dim);
    std::vector<float> out(static_cast<size_t>(length) * s.num_heads * dim);
    for (int p = 0; p < length; ++p) {
      for (int h = 0; h < s.num_heads; ++h) {
        const int first = s.window && p >= s.window ? static_cast<int>(p - s.window + 1) : 0;
        std::vector<double> weights;
        double largest = -INFINITY, sum = 0;
        for (int j = first; j <= p; ++j) {
          double dot = 0;
          for (int d = 0; d < dim; ++d)
            dot +=
                x[p * s.row() + h * dim + d] * x[j * s.row() + (s.num_heads + h / group) * dim + d];
          weights.push_back(dot / std::sqrt(dim));
          largest = std::max(largest, weights.back());
        }
        for (double& v : weights) sum += v = std::exp(v - largest);
        for (int d = 0; d < dim; ++d) {
          double o = 0;
          for (int j = first; j <= p; ++j)
            o += weights[j - first] / sum *
                 x[j * s.row() + (s.num_heads + s.num_kv_heads + h / group) * dim + d];
          out[(p * s.num_heads + h) * dim + d] = static_cast<float>(o);
        }
      }
    }
    outputs.push_back(out);
  }
  return outputs;
}

// Computes attention for `batch` over the cache of `layer`, given the qkv rows of its tokens before
// rope.
using AttentionStep =
    std::function<std::vector<float>(const Batch& batch, int layer, const std::vector<float>& qkv)>;

// Runs all sequences through two layers of cache in steps of at most `budget` tokens, in an order
// and with chunk sizes drawn from `seed`; blocks are handed out in random order. decode_from >= 0:
// from that token on a sequence takes one token a step, before those that take more.
inline Outputs run_in_steps(const AttentionWorld& w, int block_size, int budget, uint32_t seed,
                            const std::function<void(const KVCacheShape&)>& allocate,
                            const AttentionStep& step, int decode_from = -1) {
  const AttentionShape& s = w.shape;
  Random random(seed);
  int64_t num_blocks = 0;
  for (const int n : w.lengths) num_blocks += (n + block_size - 1) / block_size;
  allocate({2, num_blocks, block_size, s.num_kv_heads, s.head_dim, s.type});
  std::vector<int32_t> free(static_cast<size_t>(num_blocks));
  for (size_t i = 0; i < free.size(); ++i) free[i] = static_cast<int32_t>(i);
  std::shuffle(free.begin(), free.end(), std::mt19937(seed));

  const int64_t out_row = int64_t{s.num_heads} * s.head_dim;
  std::vector<int> done(w.lengths.size(), 0);
  std::vector<std::vector<int32_t>> tables(w.lengths.size());
  Outputs outputs;
  for (const int n : w.lengths) outputs.emplace_back(static_cast<size_t>(n * out_row));
  while (true) {
    std::vector<size_t> order;
    for (size_t q = 0; q < done.size(); ++q)
      if (done[q] < w.lengths[q]) order.push_back(q);
    if (order.empty()) break;
    std::shuffle(order.begin(), order.end(),
                 std::mt19937(static_cast<uint32_t>(random.integer(0, 1 << 30))));
    const auto decodes = [&](size_t q) { return decode_from >= 0 && done[q] >= decode_from; };
    std::stable_partition(order.begin(), order.end(), decodes);
    Batch batch;
    batch.block_size = block_size;
    batch.query_start = {0};
    std::vector<float> qkv;
    std::vector<size_t> members;
    int left = budget;
    for (const size_t q : order) {
      const int wanted = decodes(q) ? 1 : static_cast<int>(random.integer(1, budget));
      const int take = std::min({w.lengths[q] - done[q], left, wanted});
      if (take == 0) continue;
      left -= take;
      members.push_back(q);
      for (int p = done[q]; p < done[q] + take; ++p) {
        if (p % block_size == 0) {
          tables[q].push_back(free.back());
          free.pop_back();
        }
        batch.token_ids.push_back(0);
        batch.positions.push_back(p);
        batch.slot_mapping.push_back(tables[q][p / block_size] * block_size + p % block_size);
        qkv.insert(qkv.end(), w.qkv[q].begin() + p * s.row(), w.qkv[q].begin() + (p + 1) * s.row());
      }
      done[q] += take;
      batch.query_start.push_back(batch.num_tokens());
      batch.context_lens.push_back(done[q]);
      batch.block_table_stride =
          std::max(batch.block_table_stride, static_cast<int32_t>(tables[q].size()));
    }
    for (const size_t q : members) {
      for (int32_t b = 0; b < batch.block_table_stride; ++b)
        batch.block_tables.push_back(b < static_cast<int32_t>(tables[q].size()) ? tables[q][b]
                                                                                : -1);
    }
    std::vector<float> out;
    for (const int layer : {1, 0}) {  // layer 1 last written by other values would show
      std::vector<float> copy = qkv;
      if (layer == 1)
        for (float& v : copy) v = -v + 1;
      out = step(batch, layer, copy);
    }
    for (size_t m = 0; m < members.size(); ++m) {
      const int32_t begin = batch.query_start[m], count = batch.query_start[m + 1] - begin;
      std::copy_n(out.begin() + begin * out_row, count * out_row,
                  outputs[members[m]].begin() + (done[members[m]] - count) * out_row);
    }
  }
  return outputs;
}

}  // namespace nanovllm
