// Watch: whether the other ranks live. A thread of its own sends a sign of life twice a second and
// listens for theirs, whatever the rank's own thread is doing: loading, computing, waiting. A rank
// that says that it has failed, or says nothing for five seconds, has failed for good. If this rank
// then makes no call that could throw that, because it is idle or stuck, the watch ends the
// process.
#pragma once

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace nanovllm {

class Watch {
 public:
  // comm is used by nobody else; hosts of all its ranks. MPI must allow several threads.
  Watch(MPI_Comm comm, int rank, std::vector<std::string> hosts);
  ~Watch();  // no longer tells anybody that this rank lives

  // A rank has failed; throws Error naming it then.
  void check() {
    if (failed()) throw_failure();
  }
  bool failed() const { return failed_.load(std::memory_order_acquire); }

  // This rank has failed. Returns when the others have been told, or cannot be within a second.
  void tell(const std::string& why) noexcept;

 private:
  using Clock = std::chrono::steady_clock;

  void run(const std::stop_token& stop);
  void send_signs_of_life();
  void listen(Clock::time_point now);
  void end_if_nobody_knows(Clock::time_point now);
  void note(int rank, const std::string& why);
  [[noreturn]] void throw_failure();
  std::string failed_name() const;

  const MPI_Comm comm_;
  const int rank_;
  const std::vector<std::string> hosts_;
  std::vector<Clock::time_point> heard_;  // of each rank, last; of thread_ only

  std::mutex mutex_;
  int failed_rank_ = 0;  // the first, and its reason
  std::string why_;
  Clock::time_point failed_at_;
  std::atomic<bool> failed_{false};
  bool known_ = false;  // to the rank's own thread
  std::jthread thread_;
};

}  // namespace nanovllm
