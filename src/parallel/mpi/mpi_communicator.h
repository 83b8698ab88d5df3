// MpiCommunicator: ranks that are processes, on one host or several, started by mpirun. Buffers are
// summed as ThreadRanks does: rank r gets everybody's slice r, adds in the order of the ranks, and
// sends the sum to all.
//
//   rank 0  [ a0 | b0 ]   slices to      rank 0 adds a0 + a1    sums to    [ a | b ]
//   rank 1  [ a1 | b1 ]   their ranks    rank 1 adds b0 + b1    everybody  [ a | b ]
#pragma once

#include <mpi.h>

#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/mpi/watch.h"

namespace nanovllm {

class MpiCommunicator final : public Communicator {
 public:
  // All ranks of MPI_COMM_WORLD make theirs together. MPI is initialized, for several threads.
  static std::unique_ptr<MpiCommunicator> join();

  void all_reduce(float* data, int64_t n) override;
  void gather_columns(const float* part, int64_t rows, std::span<const int64_t> columns,
                      float* whole) override;
  using Communicator::broadcast;
  void broadcast(std::vector<std::byte>& message) override;
  std::vector<std::string> all_gather(const std::string& mine) override;
  void barrier() override { all_gather(""); }
  void check() override { watch_.check(); }
  void fail(const std::string& why) noexcept override { watch_.tell(why); }
  std::string host(int rank) const override { return hosts_[rank]; }
  int ranks_here() const override;

 private:
  MpiCommunicator(MPI_Comm data, MPI_Comm signs, int rank, std::vector<std::string> hosts);

  void send(const void* data, int64_t bytes, int to);
  void receive(void* data, int64_t bytes, int from);
  void wait_for_all();  // what these have begun
  // To all others; they need not know how many bytes (at most 2 GiB).
  void send_message(const void* data, size_t bytes);
  template <typename Bytes>
  void receive_message(int from, Bytes* message);
  // Waits until `there`; throws Error if it cannot because a rank has failed.
  template <typename Condition>
  void wait_until(const Condition& there);

  const MPI_Comm data_;
  const std::vector<std::string> hosts_;
  Watch watch_;
  std::vector<MPI_Request> requests_;
  std::vector<float> received_;
  std::vector<const float*> parts_;
};

}  // namespace nanovllm
