// VocabularyScan: finds and draws tokens in one row of logits without sorting it and, mostly,
// without looking at all of it more than once.
//
// start() reads the row and keeps the largest logit of every 64. From then on:
// - The k-th largest of those maxima is a lower bound of the k-th largest logit, so only the few
//   blocks that reach it are looked at again.
// - A draw needs no sum over the vocabulary. It picks a block as if all its tokens were as likely
// as
//   its best one, then one of its tokens evenly, and rejects that with the probability that makes
//   up for the difference: at most 64 tries on average, five to ten on real logits.
// - Top-p needs the sum, but no order: draw a token from all of them; it belongs to the nucleus if
//   the mass of those that come before it is less than top_p. If it does not, neither does anything
//   after it, so the next draw is from those before it. That leaves the nucleus' own distribution,
//   after 1 + ln(1 / top_p) draws on average.
//
// Everything is a function of the logits and the arguments, bit for bit on every instruction set.
// NaN counts as minus infinity. Tokens come in the order of falling logits, equal ones by id.
//
// Belongs to one thread. Scratch memory is reserved in the constructor.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/cpu/kernels.h"
#include "sampling/random_stream.h"

namespace nanovllm {

class VocabularyScan {
 public:
  explicit VocabularyScan(int64_t vocab_size);

  // The row [vocab_size] of all later calls. It must not change until the next start().
  void start(std::span<const float> logits);

  float max() const { return max_; }
  int32_t argmax() const;                    // 0 if there is no number above minus infinity
  float kth_largest(int64_t k);              // k >= 1; minus infinity if there are fewer
  int64_t rank(int32_t token) const;         // 1 + the number of larger logits
  double log_sum_exp();                      // of the whole row
  std::span<const int32_t> best(int64_t n);  // the first n tokens, until the next call

  // A token of those with a logit of at least `floor`, with probability proportional to
  // exp(logit / temperature); if top_p < 1, of the first of them that together have at least top_p
  // of that mass. max() must be finite, floor at most max().
  int32_t draw(float floor, double temperature, double top_p, RandomStream random);

 private:
  // Tokens that come before (logit, id): of a larger logit, or an equal one and a smaller id.
  struct Pivot {
    float logit;
    int64_t id;
  };
  int32_t draw_by_rejection(float floor, RandomStream& random);
  int32_t draw_nucleus(float floor, double top_p, RandomStream& random);
  std::span<const float> block(int64_t b) const;
  float nth(int64_t k, int64_t n);
  std::optional<float> kth_between(int64_t k, float lower, float upper);
  double sum_before(const Pivot& pivot);
  double accumulate();
  size_t pick_block(double at) const;
  int32_t pick_token(const Pivot& pivot, double u);

  const KernelTable& kernels_;
  std::span<const float> logits_;
  std::vector<float> maxima_;  // [blocks]
  float max_ = 0, inverse_temperature_ = 1;

  // Of a draw: the blocks that can still be drawn from, the mass of each, and of all up to each.
  std::vector<int32_t> blocks_;
  std::vector<float> sums_;
  std::vector<double> ends_;

  std::vector<float> select_;  // scratch of kth_largest
  std::vector<int32_t> best_;
};

}  // namespace nanovllm
