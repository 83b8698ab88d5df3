// FairQueue: which request enters the engine next, so that every API key gets its share.
//
// Deficit round robin over tokens. A key has a deficit: tokens it may still spend. The keys that
// wait take turns, each until its deficit is used up. When all have used up theirs, there is a new
// round: everybody gets kQuantum times its weight. What a request costs is guessed when it enters
// and settled while it runs, so a deficit can fall below zero; it is then made up for before the
// key enters anything else. A key that waits for nothing saves up one quantum at most.
//
// A newcomer is a key that comes back, from having nothing waiting, with something left to spend.
// It goes before those that have been waiting all along (as in Linux's fq_codel): whoever asks
// little never queues behind who asks a lot. Inside a key, order is priority, then arrival.
//
// Every key owns a part of the engine's slots, by weight, and at least one. Who uses more has
// borrowed them, and gives them back when an owner with something left to spend wants them: an
// entry says how much its request should be preferred, which the engine takes as its priority.
//
// Pure logic: no threads, no clock but the times it is given (seconds, never falling).
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace nanovllm {

struct ShareLimits {
  double weight = 1;
  int64_t max_concurrent_requests = 0, max_queued_requests = 0;  // 0: no limit
  int64_t requests_per_minute = 0, tokens_per_minute = 0;
};

class FairQueue {
 public:
  static constexpr int64_t kQuantum = 256;  // tokens; a few short chats

  // One share a key. slots: sequences that the engine runs at once. max_queued: of all keys.
  FairQueue(const std::vector<ShareLimits>& shares, int64_t slots, int64_t max_queued);

  // Other limits and weights, and more shares behind those there are; what is queued and runs goes
  // on. Never fewer.
  void set_shares(const std::vector<ShareLimits>& shares);

  struct Refusal {
    std::string message, code;  // "rate_limit_exceeded", "queue_full"
    double retry_after = 1;     // seconds
  };
  // Does a request of that key have to be refused? If not it counts against requests_per_minute.
  std::optional<Refusal> check(size_t key, double now);

  struct Request {
    uint64_t id = 0;  // the caller's, unique among those queued or running
    size_t key = 0;
    int priority = 0;
    int64_t slots = 1;   // sequences
    int64_t tokens = 0;  // guess of what it costs
  };
  // True: it is a newcomer, for which others should make way at once.
  bool push(const Request& request);

  // The next request to enter the engine, if there is room for one.
  struct Entry {
    uint64_t id = 0;
    // 0: a newcomer's; 1: in a slot that its key owns while another has borrowed some; 2: all
    // others. Always 0 if there is one key only.
    int level = 0;
  };
  std::optional<Entry> pop(double now, bool newcomers_only = false);

  // A request that has entered has computed so many more tokens.
  void charge(uint64_t id, int64_t tokens, double now);
  void free_slots(uint64_t id, int64_t slots);  // some of its sequences have ended
  void remove(uint64_t id);  // it is over, or leaves the queue; unknown ids are ignored

  int64_t num_queued() const { return num_queued_; }
  int64_t num_queued(size_t key) const { return static_cast<int64_t>(shares_[key].queue.size()); }
  int64_t num_running(size_t key) const { return shares_[key].running; }
  double deficit(size_t key) const { return shares_[key].deficit; }

 private:
  enum class Turn { kIdle, kNew, kOld };  // in no list, in new_, in old_

  // Refills evenly up to a minute's worth.
  struct Bucket {
    double per_minute = 0, level = 0, time = 0;  // per_minute 0: no limit
    void refill(double now);
    void set(int64_t limit);
    double seconds_until(double wanted) const;
  };
  struct Queued {
    int priority;
    uint64_t arrival, id;
    auto operator<=>(const Queued&) const = default;
  };
  struct Share {
    ShareLimits limits;
    int64_t owned_slots = 1;
    std::set<Queued> queue;
    int64_t running = 0, running_slots = 0;
    double deficit = 0;
    Turn turn = Turn::kIdle;
    Bucket requests, tokens;
    double last_entry = 0, entry_interval = 1;  // seconds between entries, smoothed
    double quantum() const { return kQuantum * limits.weight; }
  };
  struct Live {
    Request request;
    uint64_t arrival = 0;
    bool entered = false;
    double charged = 0, computed = 0;  // tokens
  };

  bool wants(const Share& share) const;
  bool active(const Share& share) const;
  bool grant_rounds(bool (FairQueue::*takes_part)(const Share&) const);
  void leave_turn(size_t key);
  Entry enter(size_t key, double now);
  void settle(Share& share, Live& live, double charged);

  const int64_t slots_, max_queued_;
  std::vector<Share> shares_;
  std::deque<size_t> new_, old_;
  std::unordered_map<uint64_t, Live> live_;
  int64_t num_queued_ = 0, used_slots_ = 0;
  uint64_t arrivals_ = 0;
};

}  // namespace nanovllm
