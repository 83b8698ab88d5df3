#include "backend/cuda/cuda_sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>

#include "backend/cuda/check.h"

namespace nanovllm::cuda {
namespace {

// Sequences with penalties whose counts stay on the device.
constexpr int64_t kPenaltySlots = 128;

int64_t penalty_slots(const StepLimits& limits) { return std::min(limits.max_seqs, kPenaltySlots); }

// Of a launch: the rows' extras, and at least one row with a whole history, a mask and a bias on
// every token.
int64_t staging_bytes(const StepLimits& limits, int64_t rows) {
  return rows * static_cast<int64_t>(sizeof(RowExtras)) + limits.max_position * 4 +
         limits.vocab_size * (static_cast<int64_t>(sizeof(LogitBias)) + 4) + limits.vocab_size / 8 +
         (1 << 20);
}

int64_t scratch_bytes(const StepLimits& limits, int64_t rows) {
  return rows * scan_blocks(limits.vocab_size) * 4;
}
int64_t logprobs_bytes(const StepLimits& limits) {
  return limits.max_tokens * (kMaxLogprobs + 1) * static_cast<int64_t>(sizeof(TokenLogprob));
}

}  // namespace

int64_t CudaSampler::bytes(const StepLimits& limits, int64_t rows) {
  return logprobs_bytes(limits) + 2 * scratch_bytes(limits, rows) +
         penalty_slots(limits) * limits.vocab_size * 4 + staging_bytes(limits, rows);
}

CudaSampler::CudaSampler(const StepLimits& limits, int64_t max_draw_rows, const Stream& stream,
                         SamplerLink& link)
    : limits_(limits),
      max_draw_rows_(max_draw_rows),
      stream_(stream),
      link_(link),
      logprobs_(logprobs_bytes(limits)),
      maxima_(scratch_bytes(limits, max_draw_rows)),
      sums_(scratch_bytes(limits, max_draw_rows)),
      counts_(penalty_slots(limits), limits.vocab_size),
      staging_bytes_(staging_bytes(limits, max_draw_rows)),
      staging_(staging_bytes_) {
  for (PinnedBuffer& half : staging_host_) half = PinnedBuffer(staging_bytes_);
  for (Results& r : results_) {
    r.tokens = PinnedBuffer(limits.max_tokens * 4);
    r.logprobs = PinnedBuffer(logprobs_bytes(limits));
    r.num_logprobs.reserve(limits.max_tokens);
  }
  params_.reserve(limits.max_tokens);
}

CudaSampler::~CudaSampler() {
  try {
    stream_.synchronize();           // nothing may be freed under a kernel
  } catch (const std::exception&) {  // of another rank, whose kernels are aborted then
  }
  link_.params = {};
}

void CudaSampler::begin(std::span<const SampleRow> rows) {
  if (std::ssize(rows) > limits_.max_tokens) throw Error("sampler", "was given too many rows");
  rows_ = rows;
  params_.clear();
  for (const SampleRow& row : rows) {
    const bool all = row.top_k <= 0 || row.top_k >= limits_.vocab_size;
    params_.push_back({.seed = row.seed,
                       .position = row.position,
                       .temperature = row.temperature,
                       .top_p = row.top_p,
                       .min_p = row.min_p,
                       .presence = row.presence_penalty,
                       .frequency = row.frequency_penalty,
                       .repetition = static_cast<float>(row.repetition_penalty),
                       .index = row.index,
                       .scored_token = row.scored_token,
                       .num_logprobs = std::min(std::min(row.num_logprobs, kMaxLogprobs),
                                                static_cast<int>(limits_.vocab_size)),
                       .top_k = all ? 0 : static_cast<int32_t>(row.top_k)});
  }
  link_.params = params_;
}

template <typename T>
T* CudaSampler::take(int64_t count, int64_t* at) const {
  const int64_t first = (*at + 15) / 16 * 16, end = first + count * static_cast<int64_t>(sizeof(T));
  if (end > staging_bytes_) return nullptr;
  *at = end;
  return reinterpret_cast<T*>(staging_host_[next_staging_].as<std::byte>() + first);
}

bool CudaSampler::stage(int64_t r, RowExtras* extras) {
  const SampleRow& row = rows_[r];
  *extras = {};
  if (row.scored_token >= 0) return true;
  const auto on_device = [&](auto* host) {
    const auto* base = staging_host_[next_staging_].as<std::byte>();
    return reinterpret_cast<decltype(host)>(staging_.as<std::byte>() +
                                            (reinterpret_cast<std::byte*>(host) - base));
  };
  int64_t at = staging_used_;
  if (!row.biases.empty()) {
    auto* biases = take<LogitBias>(std::ssize(row.biases), &at);
    auto* unbiased = take<float>(std::ssize(row.biases), &at);
    if (!biases || !unbiased) return false;
    // A token that must not come needs no other bias, and on the device each may come once.
    const auto never = [](const LogitBias& b) { return std::isinf(b.bias); };
    const bool some_never = std::ranges::any_of(row.biases, never);
    for (const LogitBias& b : row.biases) {
      const bool twice = some_never && !never(b) && std::ranges::any_of(row.biases, [&](auto& o) {
                           return never(o) && o.token_id == b.token_id;
                         });
      if (!twice) biases[extras->num_biases++] = b;
    }
    extras->biases = on_device(biases);
    extras->unbiased = on_device(unbiased);
  }
  if (!row.allowed.empty()) {
    auto* allowed = take<uint32_t>(std::ssize(row.allowed), &at);
    if (!allowed) return false;
    std::ranges::copy(row.allowed, allowed);
    extras->allowed = on_device(allowed);
  }
  if (row.has_penalties()) {
    const auto length = std::ssize(row.history);
    PenaltyCounts::Slot* slot = counts_.find(row.sequence, length, stream_);
    if (!slot) return false;
    const int64_t num_new = length - slot->counted;
    auto* tokens = take<int32_t>(num_new, &at);
    if (!tokens) return false;
    std::ranges::copy(row.history.subspan(slot->counted), tokens);
    extras->counts = slot->counts;
    extras->new_tokens = on_device(tokens);
    extras->num_new = static_cast<int32_t>(num_new);
    extras->num_new_of_prompt = static_cast<int32_t>(
        std::clamp<int64_t>(row.num_prompt_tokens - slot->counted, 0, num_new));
    slot->counted = length;
  }
  staging_used_ = at;
  return true;
}

void CudaSampler::draw(float* logits, int64_t first, int64_t count) {
  const auto has_extras = [&](const SampleRow& r) {
    return r.scored_token < 0 && (!r.biases.empty() || !r.allowed.empty() || r.has_penalties());
  };
  for (int64_t begin = first, end = first + count; begin < end;) {
    const int64_t most = std::min(end - begin, max_draw_rows_);
    SamplingRows rows = {.logits = logits + (begin - first) * limits_.vocab_size,
                         .num_rows = static_cast<int>(most),
                         .vocab = static_cast<int>(limits_.vocab_size),
                         .params = link_.device_params + begin,
                         .maxima = maxima_.as<float>(),
                         .sums = sums_.as<float>(),
                         .tokens = link_.tokens.as<int32_t>() + begin,
                         .logprobs = logprobs_.as<TokenLogprob>() + begin * (kMaxLogprobs + 1)};
    bool biases = false;
    if (std::ranges::any_of(rows_.subspan(begin, most), has_extras)) {
      next_staging_ ^= 1;
      staged_[next_staging_].synchronize();
      counts_.next_launch();
      staging_used_ = 0;
      auto* const extras = take<RowExtras>(most, &staging_used_);
      int64_t n = 0;
      while (n < most && stage(begin + n, extras + n)) biases |= extras[n++].num_biases > 0;
      if (n == 0) throw Error("sampler", "was given a row with more biases than tokens");
      rows.num_rows = static_cast<int>(n);
      rows.extras = staging_.as<RowExtras>();
      check(cudaMemcpyAsync(staging_.as<std::byte>(), staging_host_[next_staging_].as<std::byte>(),
                            static_cast<size_t>(staging_used_), cudaMemcpyHostToDevice,
                            stream_.get()),
            "cudaMemcpyAsync");
      staged_[next_staging_].record(stream_);
      apply_extras(rows, stream_.get());
    }
    draw_tokens(rows, stream_.get());
    if (biases) remove_biases(rows, stream_.get());
    const auto wants_logprobs = [](const RowParams& p) { return p.num_logprobs >= 0; };
    if (std::ranges::any_of(std::span(params_).subspan(begin, rows.num_rows), wants_logprobs)) {
      wants_logprobs_ = true;
      compute_logprobs(rows, stream_.get());
    }
    begin += rows.num_rows;
  }
}

void CudaSampler::submit() {
  Results& r = results_[submitted_++ % kResults];
  r.num_rows = std::ssize(rows_);
  r.num_logprobs.clear();
  for (const RowParams& p : params_) r.num_logprobs.push_back(p.num_logprobs);
  const auto copy = [&](PinnedBuffer& to, const DeviceBuffer& from, int64_t bytes) {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(to.as<void>(), from.as<void>(), static_cast<size_t>(bytes),
                          cudaMemcpyDeviceToHost, stream_.get()),
          "cudaMemcpyAsync");
  };
  copy(r.tokens, link_.tokens, r.num_rows * 4);
  if (wants_logprobs_)
    copy(r.logprobs, logprobs_,
         r.num_rows * (kMaxLogprobs + 1) * static_cast<int64_t>(sizeof(TokenLogprob)));
  wants_logprobs_ = false;
  r.there.record(stream_);
  rows_ = {};
  link_.params = {};
}

std::span<const int32_t> CudaSampler::wait() {
  if (waited_ == submitted_) throw Error("sampler", "has no step under way");
  Results& r = results_[waited_++ % kResults];
  r.there.synchronize();
  return {r.tokens.as<int32_t>(), static_cast<size_t>(r.num_rows)};
}

std::span<const TokenLogprob> CudaSampler::logprobs(int64_t row) const {
  const Results& r = results_[(waited_ - 1) % kResults];
  return {r.logprobs.as<TokenLogprob>() + row * (kMaxLogprobs + 1),
          static_cast<size_t>(r.num_logprobs[row] + 1)};
}

}  // namespace nanovllm::cuda
