#include "parallel/mpi/watch.h"

#include <cstdio>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

using namespace std::chrono_literals;
constexpr std::chrono::milliseconds kLook = 20ms, kSign = 500ms, kSilence = 5s, kTell = 1s,
                                    kIdle = 2s;

enum Tag : int { kAlive = 1, kFailed };

}  // namespace

Watch::Watch(MPI_Comm comm, int rank, std::vector<std::string> hosts)
    : comm_(comm), rank_(rank), hosts_(std::move(hosts)), heard_(hosts_.size(), Clock::now()) {
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

Watch::~Watch() = default;

void Watch::run(const std::stop_token& stop) {
  Clock::time_point last_look = Clock::now(), last_sign;
  while (!stop.stop_requested()) {
    const Clock::time_point now = Clock::now();
    // Who was stopped itself has heard nobody, and what they said is only now read.
    if (now - last_look > kSilence / 2) heard_.assign(heard_.size(), now);
    last_look = now;
    if (now - last_sign >= kSign) {
      send_signs_of_life();
      last_sign = now;
    }
    listen(now);
    end_if_nobody_knows(now);
    std::this_thread::sleep_for(kLook);
  }
}

void Watch::send_signs_of_life() {
  for (int r = 0; r < std::ssize(hosts_); ++r) {
    if (r == rank_) continue;
    MPI_Request request;
    MPI_Isend(nullptr, 0, MPI_BYTE, r, kAlive, comm_, &request);
    MPI_Request_free(&request);  // nothing waits for it, and it refers to no memory
  }
}

void Watch::listen(Clock::time_point now) {
  while (true) {
    int there = 0;
    MPI_Message message;
    MPI_Status status;
    MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &there, &message, &status);
    if (!there) break;
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    std::string text(static_cast<size_t>(bytes), '\0');
    MPI_Mrecv(text.data(), bytes, MPI_BYTE, &message, MPI_STATUS_IGNORE);
    heard_[status.MPI_SOURCE] = now;
    if (status.MPI_TAG == kFailed) note(status.MPI_SOURCE, text);
  }
  for (int r = 0; r < std::ssize(hosts_); ++r)
    if (r != rank_ && now - heard_[r] > kSilence)
      note(r, "has not been heard of for 5 seconds: it was stopped, or its host cannot be reached");
}

void Watch::end_if_nobody_knows(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (!failed() || known_ || now - failed_at_ < kIdle) return;
  std::fprintf(stderr, "nano-vllm: error: %s: %s\n", failed_name().c_str(), why_.c_str());
  MPI_Abort(MPI_COMM_WORLD, 1);
}

std::string Watch::failed_name() const {
  return "rank " + std::to_string(failed_rank_) + " on " + hosts_[failed_rank_];
}

void Watch::note(int rank, const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (failed()) return;
  failed_at_ = Clock::now();
  known_ = rank == rank_;
  failed_rank_ = rank;
  why_ = why;
  failed_.store(true, std::memory_order_release);
}

void Watch::tell(const std::string& why) noexcept {
  note(rank_, why);
  std::vector<MPI_Request> requests(hosts_.size(), MPI_REQUEST_NULL);
  for (int r = 0; r < std::ssize(hosts_); ++r)
    if (r != rank_)
      MPI_Isend(why.data(), static_cast<int>(why.size()), MPI_BYTE, r, kFailed, comm_,
                &requests[r]);
  int done = 0;
  for (const auto end = Clock::now() + kTell; !done && Clock::now() < end;) {
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (!done) std::this_thread::sleep_for(1ms);
  }
}

void Watch::throw_failure() {
  const std::lock_guard lock(mutex_);
  known_ = true;
  throw Error(failed_name(), why_);
}

}  // namespace nanovllm
