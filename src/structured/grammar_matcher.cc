#include "structured/grammar_matcher.h"

#include <time.h>

#include <algorithm>
#include <stdexcept>

#include "structured/xgrammar_types.h"

namespace nanovllm {
namespace {

// An ordinary mask takes 0.02 to 1 ms.
constexpr double kSecondsAToken = 0.01, kSecondsAtOnce = 0.25;

// Of the processor, so that a busy machine is nobody's fault.
double thread_seconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

struct GrammarMatcher::Impl {
  std::shared_ptr<const CompiledGrammar> grammar;
  xgrammar::GrammarMatcher matcher;
};

GrammarMatcher::GrammarMatcher(std::shared_ptr<const CompiledGrammar> grammar, int64_t vocab_size,
                               std::vector<int32_t> stop_token_ids, int64_t min_tokens)
    : stop_token_ids_(std::move(stop_token_ids)),
      tokens_before_stop_(min_tokens),
      mask_(static_cast<size_t>(vocab_size + 31) / 32),
      seconds_left_(kSecondsAtOnce) {
  const xgrammar::CompiledGrammar& compiled = grammar->impl().grammar;
  const std::vector<int32_t> eos = compiled.GetTokenizerInfo().GetStopTokenIds();
  stop_token_ids_.insert(stop_token_ids_.end(), eos.begin(), eos.end());
  impl_ = std::make_unique<Impl>(
      Impl{std::move(grammar), xgrammar::GrammarMatcher(compiled, std::nullopt, eos.empty())});
}
GrammarMatcher::~GrammarMatcher() = default;

void GrammarMatcher::prepare() {
  if (prepared_) return;
  prepared_ = true;
  spend([this] { fill_mask(); });
  if (gave_up_) std::ranges::fill(mask_, 0);
  // Is there a token that does not end it?
  std::vector<std::pair<size_t, uint32_t>> saved;
  for (const int32_t id : stop_token_ids_) {
    const size_t word = static_cast<size_t>(id) / 32;
    saved.emplace_back(word, mask_[word]);
    mask_[word] &= ~(uint32_t{1} << (id % 32));
  }
  must_stop_ = std::ranges::all_of(mask_, [](uint32_t word) { return word == 0; });
  if (tokens_before_stop_ > 0 && !must_stop_) return;
  for (auto it = saved.rbegin(); it != saved.rend(); ++it) mask_[it->first] = it->second;
}

void GrammarMatcher::fill_mask() {
  int64_t shape[] = {static_cast<int64_t>(mask_.size())};
  DLTensor tensor{.data = mask_.data(),
                  .device = {kDLCPU, 0},
                  .ndim = 1,
                  .dtype = xgrammar::GetBitmaskDLType(),
                  .shape = shape,
                  .strides = nullptr,
                  .byte_offset = 0};
  if (!impl_->matcher.FillNextTokenBitmask(&tensor)) std::ranges::fill(mask_, ~uint32_t{0});
  if (const auto& allowed = impl_->grammar->impl().allowed)
    for (size_t i = 0; i < mask_.size(); ++i) mask_[i] &= (*allowed)[i];
}

bool GrammarMatcher::accept(int32_t token) {
  prepared_ = false;
  seconds_left_ = std::min(seconds_left_ + kSecondsAToken, kSecondsAtOnce);
  bool accepted = false;
  if (!gave_up_) spend([&] { accepted = impl_->matcher.AcceptToken(token); });
  if (accepted) --tokens_before_stop_;
  return accepted && !gave_up_;
}

void GrammarMatcher::advance(int32_t token) {
  if (!accept(token)) throw std::runtime_error("GrammarMatcher: gave up");
}

template <typename Work>
void GrammarMatcher::spend(Work work) {
  const double before = thread_seconds();
  try {
    work();
  } catch (const std::exception&) {
    gave_up_ = true;
  }
  seconds_left_ -= thread_seconds() - before;
  if (seconds_left_ < 0) gave_up_ = true;
}

bool GrammarMatcher::is_terminated() const { return impl_->matcher.IsTerminated(); }

}  // namespace nanovllm
