#include "parallel/thread_ranks.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>

#include "nanovllm/error.h"
#include "parallel/slices.h"

namespace nanovllm {
namespace {

// Two ranks reach a meeting within some microseconds of each other while they decode. Beyond that
// sleeping costs less than it disturbs.
constexpr std::chrono::microseconds kSpin{100};

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

// What the ranks share. A pointer or text belongs to its rank until everybody has met, and may be
// read by all until they meet again.
//
// A call begins with enter() and its further meetings are meet(). Only enter() looks for a failed
// rank: between a call's first and last meeting no rank can fail, for all are inside, and one that
// left early would take away memory that others still read.
struct ThreadRanks::Meeting {
  explicit Meeting(int n) : size(n), buffers(n), texts(n) {}

  // Both return when all ranks have called them; enter() throws Error if a rank has failed.
  void enter() {
    const uint32_t now = meetings.load(std::memory_order_acquire);
    check();
    meet_after(now);
    check();
  }
  void meet() { meet_after(meetings.load(std::memory_order_acquire)); }

  void meet_after(uint32_t now) {
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived.store(0, std::memory_order_relaxed);
      meetings.fetch_add(1, std::memory_order_acq_rel);
      meetings.notify_all();
      return;
    }
    wait_while(now);
  }

  void wait_while(uint32_t old) const {
    if (spin) {
      const auto end = std::chrono::steady_clock::now() + kSpin;
      do {
        for (int i = 0; i < 32; ++i) {
          if (meetings.load(std::memory_order_acquire) != old) return;
          pause();
        }
      } while (std::chrono::steady_clock::now() < end);
    }
    meetings.wait(old, std::memory_order_acquire);
  }

  void check() {
    if (!failed.load(std::memory_order_acquire)) return;
    const std::lock_guard lock(mutex);
    throw Error(failed_rank, why);
  }

  void fail(const std::string& rank, const std::string& reason) {
    {
      const std::lock_guard lock(mutex);
      if (failed.load(std::memory_order_relaxed)) return;
      failed_rank = rank;
      why = reason;
      failed.store(true, std::memory_order_release);
    }
    meetings.fetch_add(1, std::memory_order_acq_rel);  // whoever waits looks again
    meetings.notify_all();
  }

  const int size;
  const std::string host = SingleRank::host_name();
  bool spin = false;
  std::vector<const float*> buffers;
  std::vector<std::string> texts;
  std::vector<std::byte>* message = nullptr;  // rank 0's

  std::mutex mutex;
  std::string failed_rank, why;
  std::atomic<bool> failed{false};
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<uint32_t> meetings{0};  // that have taken place
};

class ThreadRanks::ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(Meeting& meeting, int rank)
      : Communicator(rank, meeting.size), meeting_(meeting) {}

  void all_reduce(float* data, int64_t n) override {
    const Slice mine = sum_slice(n, rank(), size());
    meeting_.buffers[rank()] = data;
    meeting_.enter();
    for (int r = 0; r < size(); ++r) parts_[r] = meeting_.buffers[r] + mine.begin;
    sum_in_order(parts_, mine.size(), data + mine.begin);
    count_received(mine.size() * (size() - 1));
    meeting_.meet();
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      const Slice slice = sum_slice(n, r, size());
      std::copy_n(meeting_.buffers[r] + slice.begin, slice.size(), data + slice.begin);
      count_received(slice.size());
    }
    meeting_.meet();
  }

  void gather_columns(const float* part, int64_t rows, std::span<const int64_t> columns,
                      float* whole) override {
    meeting_.buffers[rank()] = part;
    meeting_.enter();
    if (rank() == 0) {
      int64_t width = 0, first = 0;
      for (const int64_t n : columns) width += n;
      for (int r = 0; r < size(); ++r) {
        for (int64_t row = 0; row < rows; ++row)
          std::copy_n(meeting_.buffers[r] + row * columns[r], columns[r],
                      whole + row * width + first);
        first += columns[r];
        if (r > 0) count_received(rows * columns[r]);
      }
    }
    meeting_.meet();
  }

  using Communicator::broadcast;
  void broadcast(std::vector<std::byte>& message) override {
    if (rank() == 0) meeting_.message = &message;
    meeting_.enter();
    if (rank() != 0) {
      message.assign(meeting_.message->begin(), meeting_.message->end());
      bytes_received_ += std::ssize(message);
    }
    meeting_.meet();
  }

  std::vector<std::string> all_gather(const std::string& mine) override {
    meeting_.texts[rank()] = mine;
    meeting_.enter();
    std::vector<std::string> all = meeting_.texts;
    for (int r = 0; r < size(); ++r)
      if (r != rank()) bytes_received_ += std::ssize(all[r]);
    meeting_.meet();
    return all;
  }

  void barrier() override { meeting_.enter(); }
  void fail(const std::string& why) noexcept override {
    meeting_.fail("rank " + std::to_string(rank()) + " on " + meeting_.host, why);
  }
  void check() override { meeting_.check(); }
  std::string host(int) const override { return meeting_.host; }
  int ranks_here() const override { return size(); }

 private:
  void count_received(int64_t floats) {
    bytes_received_ += floats * static_cast<int64_t>(sizeof(float));
  }

  Meeting& meeting_;
  std::vector<const float*> parts_ = std::vector<const float*>(size());
};

ThreadRanks::ThreadRanks(int size, int64_t threads_each)
    : meeting_(std::make_unique<Meeting>(size)) {
  meeting_->spin = size * threads_each <= int64_t{std::thread::hardware_concurrency()};
  for (int r = 0; r < size; ++r)
    communicators_.push_back(std::make_unique<ThreadCommunicator>(*meeting_, r));
}

ThreadRanks::~ThreadRanks() = default;

Communicator& ThreadRanks::rank(int r) { return *communicators_[r]; }

}  // namespace nanovllm
