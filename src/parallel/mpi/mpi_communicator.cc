#include "parallel/mpi/mpi_communicator.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "nanovllm/error.h"
#include "parallel/slices.h"

namespace nanovllm {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kTag = 1;                  // the order tells the calls apart
constexpr int64_t kMostBytes = 1 << 30;  // MPI counts in int
// What was sent before a failure may come after the word of it.
constexpr auto kGrace = 200ms;

// MPI has no call that waits asleep. Ranks reach the calls of a step within microseconds of each
// other; who waits longer waits for a prompt's step, and who waits very long for the next request.
void wait_a_little(Clock::duration waited) {
  if (waited > 1s)
    std::this_thread::sleep_for(1ms);
  else if (waited > 200us)
    std::this_thread::sleep_for(20us);
  else
    std::this_thread::yield();
}

}  // namespace

std::unique_ptr<MpiCommunicator> MpiCommunicator::join() {
  MPI_Comm data, signs;
  MPI_Comm_dup(MPI_COMM_WORLD, &data);
  MPI_Comm_dup(MPI_COMM_WORLD, &signs);
  MPI_Comm_set_errhandler(data, MPI_ERRORS_RETURN);  // the watch says who it was
  MPI_Comm_set_errhandler(signs, MPI_ERRORS_RETURN);
  int rank = 0, size = 0;
  MPI_Comm_rank(data, &rank);
  MPI_Comm_size(data, &size);
  constexpr size_t kName = 256;
  std::string mine = SingleRank::host_name(), all(size * kName, '\0');
  mine.resize(kName);
  MPI_Allgather(mine.data(), kName, MPI_CHAR, all.data(), kName, MPI_CHAR, data);
  std::vector<std::string> hosts;
  for (int r = 0; r < size; ++r) hosts.emplace_back(all.c_str() + r * kName);
  return std::unique_ptr<MpiCommunicator>(new MpiCommunicator(data, signs, rank, std::move(hosts)));
}

// The two communicators of MPI are kept until the process ends: freeing them would need all ranks.
MpiCommunicator::MpiCommunicator(MPI_Comm data, MPI_Comm signs, int rank,
                                 std::vector<std::string> hosts)
    : Communicator(rank, static_cast<int>(hosts.size())),
      data_(data),
      hosts_(std::move(hosts)),
      watch_(signs, rank, hosts_),
      parts_(hosts_.size()) {}

template <typename Condition>
void MpiCommunicator::wait_until(const Condition& there) {
  const Clock::time_point start = Clock::now();
  Clock::time_point failed_at = Clock::time_point::max();
  while (!there()) {
    const Clock::time_point now = Clock::now();
    if (watch_.failed()) {
      failed_at = std::min(failed_at, now);
      if (now - failed_at > kGrace) watch_.check();
    }
    wait_a_little(now - start);
  }
}

void MpiCommunicator::send(const void* data, int64_t bytes, int to) {
  for (int64_t at = 0; at < bytes; at += kMostBytes)
    MPI_Isend(static_cast<const char*>(data) + at,
              static_cast<int>(std::min(kMostBytes, bytes - at)), MPI_BYTE, to, kTag, data_,
              &requests_.emplace_back());
}

void MpiCommunicator::receive(void* data, int64_t bytes, int from) {
  for (int64_t at = 0; at < bytes; at += kMostBytes)
    MPI_Irecv(static_cast<char*>(data) + at, static_cast<int>(std::min(kMostBytes, bytes - at)),
              MPI_BYTE, from, kTag, data_, &requests_.emplace_back());
  bytes_received_ += bytes;
}

void MpiCommunicator::wait_for_all() {
  wait_until([&] {
    int done = 0;
    MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE);
    return done != 0;
  });
  requests_.clear();
}

void MpiCommunicator::send_message(const void* data, size_t bytes) {
  for (int r = 0; r < size(); ++r)
    if (r != rank())
      MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, r, kTag, data_, &requests_.emplace_back());
}

template <typename Bytes>
void MpiCommunicator::receive_message(int from, Bytes* message) {
  MPI_Message next;
  MPI_Status status;
  wait_until([&] {
    int there = 0;
    MPI_Improbe(from, kTag, data_, &there, &next, &status);
    return there != 0;
  });
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  message->resize(static_cast<size_t>(bytes));
  MPI_Imrecv(message->data(), bytes, MPI_BYTE, &next, &requests_.emplace_back());
  bytes_received_ += bytes;
}

void MpiCommunicator::all_reduce(float* data, int64_t n) {
  constexpr int64_t kFloat = sizeof(float);
  const Slice mine = sum_slice(n, rank(), size());
  received_.resize(static_cast<size_t>(mine.size() * (size() - 1)));
  float* to = received_.data();
  for (int r = 0; r < size(); ++r) {
    parts_[r] = data + mine.begin;
    if (r == rank()) continue;
    const Slice theirs = sum_slice(n, r, size());
    send(data + theirs.begin, theirs.size() * kFloat, r);
    receive(to, mine.size() * kFloat, r);
    parts_[r] = to;
    to += mine.size();
  }
  wait_for_all();
  sum_in_order(parts_, mine.size(), data + mine.begin);
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    const Slice theirs = sum_slice(n, r, size());
    send(data + mine.begin, mine.size() * kFloat, r);
    receive(data + theirs.begin, theirs.size() * kFloat, r);
  }
  wait_for_all();
}

void MpiCommunicator::gather_columns(const float* part, int64_t rows,
                                     std::span<const int64_t> columns, float* whole) {
  constexpr int64_t kFloat = sizeof(float);
  if (rank() != 0) {
    send(part, rows * columns[rank()] * kFloat, 0);
    return wait_for_all();
  }
  int64_t width = 0, first = columns[0];
  for (const int64_t n : columns) width += n;
  received_.resize(static_cast<size_t>(rows * (width - columns[0])));
  for (int r = 1; r < size(); ++r) {
    receive(received_.data() + rows * (first - columns[0]), rows * columns[r] * kFloat, r);
    first += columns[r];
  }
  for (int64_t row = 0; row < rows; ++row)
    std::copy_n(part + row * columns[0], columns[0], whole + row * width);
  wait_for_all();
  const float* from = received_.data();
  first = columns[0];
  for (int r = 1; r < size(); ++r) {
    for (int64_t row = 0; row < rows; ++row, from += columns[r])
      std::copy_n(from, columns[r], whole + row * width + first);
    first += columns[r];
  }
}

void MpiCommunicator::broadcast(std::vector<std::byte>& message) {
  if (rank() == 0)
    send_message(message.data(), message.size());
  else
    receive_message(0, &message);
  wait_for_all();
}

std::vector<std::string> MpiCommunicator::all_gather(const std::string& mine) {
  std::vector<std::string> all(static_cast<size_t>(size()));
  all[rank()] = mine;
  send_message(mine.data(), mine.size());
  for (int r = 0; r < size(); ++r)
    if (r != rank()) receive_message(r, &all[r]);
  wait_for_all();
  return all;
}

int MpiCommunicator::ranks_here() const {
  return static_cast<int>(std::ranges::count(hosts_, hosts_[rank()]));
}

}  // namespace nanovllm
