#include "server/fair_queue.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nanovllm {

FairQueue::FairQueue(const std::vector<ShareLimits>& shares, int64_t slots, int64_t max_queued)
    : slots_(slots), max_queued_(max_queued) {
  set_shares(shares);
}

void FairQueue::set_shares(const std::vector<ShareLimits>& shares) {
  const size_t known = shares_.size();
  shares_.resize(shares.size());
  double weights = 0;
  for (const ShareLimits& limits : shares) weights += limits.weight;
  for (size_t i = 0; i < shares.size(); ++i) {
    Share& share = shares_[i];
    share.limits = shares[i];
    if (i >= known) share.deficit = share.quantum();
    share.owned_slots = std::max<int64_t>(
        1, static_cast<int64_t>(static_cast<double>(slots_) * shares[i].weight / weights));
    share.requests.set(shares[i].requests_per_minute);
    share.tokens.set(shares[i].tokens_per_minute);
  }
}

// What has been used up stays so.
void FairQueue::Bucket::set(int64_t limit) {
  level += static_cast<double>(limit) - per_minute;
  per_minute = static_cast<double>(limit);
}

void FairQueue::Bucket::refill(double now) {
  level = std::min(per_minute, level + (now - time) * per_minute / 60);
  time = now;
}

double FairQueue::Bucket::seconds_until(double wanted) const {
  return std::max(0.0, wanted - level) * 60 / per_minute;
}

std::optional<FairQueue::Refusal> FairQueue::check(size_t key, double now) {
  Share& share = shares_[key];
  const ShareLimits& limits = share.limits;
  const auto queued = static_cast<int64_t>(share.queue.size());
  if (limits.max_queued_requests > 0 && queued >= limits.max_queued_requests)
    return Refusal{"this key has " + std::to_string(queued) +
                       " requests waiting, which is its limit (max_queued_requests)",
                   "queue_full", share.entry_interval};
  if (num_queued_ >= max_queued_)
    return Refusal{"the server has " + std::to_string(num_queued_) +
                       " requests waiting, which is its limit (--max-queued-requests)",
                   "queue_full", share.entry_interval};
  if (limits.tokens_per_minute > 0) {
    share.tokens.refill(now);
    if (share.tokens.level < 1)
      return Refusal{"this key has used its " + std::to_string(limits.tokens_per_minute) +
                         " tokens a minute (tokens_per_minute)",
                     "rate_limit_exceeded", share.tokens.seconds_until(1)};
  }
  if (limits.requests_per_minute > 0) {
    share.requests.refill(now);
    if (share.requests.level < 1)
      return Refusal{"this key has made its " + std::to_string(limits.requests_per_minute) +
                         " requests a minute (requests_per_minute)",
                     "rate_limit_exceeded", share.requests.seconds_until(1)};
    share.requests.level -= 1;
  }
  return std::nullopt;
}

bool FairQueue::push(const Request& request) {
  Share& share = shares_[request.key];
  if (share.turn == Turn::kIdle) {
    grant_rounds(&FairQueue::active);  // for what others have had since the last one
    share.turn = share.deficit > 0 ? Turn::kNew : Turn::kOld;
    (share.turn == Turn::kNew ? new_ : old_).push_back(request.key);
  }
  const uint64_t arrival = arrivals_++;
  live_[request.id] = {.request = request, .arrival = arrival};
  share.queue.insert({request.priority, arrival, request.id});
  ++num_queued_;
  return shares_.size() > 1 && share.turn == Turn::kNew && used_slots_ > 0;
}

bool FairQueue::wants(const Share& share) const {
  return !share.queue.empty() && (share.limits.max_concurrent_requests == 0 ||
                                  share.running < share.limits.max_concurrent_requests);
}

bool FairQueue::active(const Share& share) const {
  return !share.queue.empty() || share.running > 0;
}

std::optional<FairQueue::Entry> FairQueue::pop(double now, bool newcomers_only) {
  while (true) {
    bool wanted = false;
    for (std::deque<size_t>* list : {&new_, &old_}) {
      if (list == &old_ && newcomers_only) return std::nullopt;
      for (size_t i = list->size(); i > 0; --i) {
        const size_t key = list->front();
        Share& share = shares_[key];
        const bool room =
            used_slots_ < slots_ || (shares_.size() > 1 && share.running_slots < share.owned_slots);
        if (wants(share) && room && share.deficit > 0) return enter(key, now);
        wanted |= wants(share);
        list->pop_front();  // its turn is over
        share.turn = Turn::kOld;
        old_.push_back(key);
      }
    }
    if (!wanted) return std::nullopt;
    if (used_slots_ < slots_) {
      grant_rounds(&FairQueue::wants);
    } else if (!grant_rounds(&FairQueue::active)) {
      return std::nullopt;
    }
  }
}

// As many rounds at once as it takes until one of those who take part has something to spend; false
// if one has already.
bool FairQueue::grant_rounds(bool (FairQueue::*takes_part)(const Share&) const) {
  double rounds = INFINITY;
  for (const Share& share : shares_)
    if ((this->*takes_part)(share))
      rounds = std::min(rounds, std::ceil((1 - share.deficit) / share.quantum()));
  if (rounds <= 0 || rounds == INFINITY) return false;
  for (Share& share : shares_) {
    const double granted = share.deficit + rounds * share.quantum();
    share.deficit =
        wants(share) ? granted : std::max(share.deficit, std::min(granted, share.quantum()));
  }
  return true;
}

void FairQueue::leave_turn(size_t key) {
  Share& share = shares_[key];
  std::erase(share.turn == Turn::kNew ? new_ : old_, key);
  share.turn = Turn::kIdle;
  share.deficit = std::min(share.deficit, share.quantum());
}

FairQueue::Entry FairQueue::enter(size_t key, double now) {
  Share& share = shares_[key];
  const auto first = share.queue.begin();
  Live& live = live_.at(first->id);
  Entry entry{.id = first->id};
  share.queue.erase(first);
  if (shares_.size() > 1) {
    const bool somebody_borrows = std::ranges::any_of(
        shares_, [](const Share& other) { return other.running_slots > other.owned_slots; });
    const bool owned = share.running_slots < share.owned_slots;
    entry.level = share.turn == Turn::kNew ? 0 : owned && somebody_borrows ? 1 : 2;
  }
  --num_queued_;
  ++share.running;
  share.running_slots += live.request.slots;
  used_slots_ += live.request.slots;
  live.entered = true;
  settle(share, live, static_cast<double>(live.request.tokens));
  share.entry_interval +=
      (std::clamp(now - share.last_entry, 0.0, 60.0) - share.entry_interval) / 8;
  share.last_entry = now;
  if (share.queue.empty()) leave_turn(key);
  return entry;
}

void FairQueue::settle(Share& share, Live& live, double charged) {
  share.deficit -= charged - live.charged;
  live.charged = charged;
}

void FairQueue::charge(uint64_t id, int64_t tokens, double now) {
  const auto it = live_.find(id);
  if (it == live_.end()) return;
  Live& live = it->second;
  Share& share = shares_[live.request.key];
  live.computed += static_cast<double>(tokens);
  if (live.computed > live.charged) settle(share, live, live.computed);
  if (share.limits.tokens_per_minute > 0) {
    share.tokens.refill(now);
    share.tokens.level -= static_cast<double>(tokens);
  }
}

void FairQueue::free_slots(uint64_t id, int64_t slots) {
  const auto it = live_.find(id);
  if (it == live_.end() || !it->second.entered) return;
  Request& request = it->second.request;
  slots = std::min(slots, request.slots);
  request.slots -= slots;
  shares_[request.key].running_slots -= slots;
  used_slots_ -= slots;
}

void FairQueue::remove(uint64_t id) {
  const auto it = live_.find(id);
  if (it == live_.end()) return;
  Live& live = it->second;
  Share& share = shares_[live.request.key];
  if (live.entered) {
    free_slots(id, live.request.slots);
    settle(share, live, live.computed);  // the guess was too high
    --share.running;
  } else {
    share.queue.erase({live.request.priority, live.arrival, id});
    --num_queued_;
    if (share.queue.empty()) leave_turn(live.request.key);
  }
  if (share.turn == Turn::kIdle) share.deficit = std::min(share.deficit, share.quantum());
  live_.erase(it);
  if (live_.empty())  // nobody has anything to make up for
    for (Share& other : shares_) other.deficit = other.quantum();
}

}  // namespace nanovllm
