// NcclCommunicator: the ranks of one engine on a GPU each. What is summed and gathered lies in
// device memory and goes through NCCL, in the order of the backend's stream; what hosts say to each
// other goes on to another Communicator (threads of one process, or processes of several hosts),
// which also carries NCCL's id at the start.
//
// Sums are made in the order of the ranks, as communicator.h promises, by a kernel of ours behind
// an exchange by NCCL: the order in which ncclAllReduce adds depends on its algorithm, and with
// that on how many tokens there are. Few elements are gathered from all; of many, each rank sums a
// slice, and that is gathered (what a ring does, with the same traffic). Both give the same bits.
//
// No call to NCCL waits for another rank (blocking = 0). Where this rank waits, for NCCL or for its
// stream, it looks whether another one has failed; then it aborts what is under way and throws.
//
// Belongs to one backend and its thread, all ranks' are made at the same time.
#pragma once

#include <functional>

#include "backend/cuda/kernels.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/nccl_library.h"
#include "backend/cuda/scratch.h"
#include "parallel/communicator.h"

namespace nanovllm::cuda {

class NcclCommunicator final : public Communicator {
 public:
  struct Options {
    Scratch scratch;
    // Of what all_reduce() is given.
    std::function<Element(const float*)> element_of;
    // NCCL frees nothing while a graph has calls to it.
    std::function<void()> destroy_graphs = [] {};
  };
  // Throws Error on all ranks where one has no NCCL, or it fails.
  NcclCommunicator(Communicator& host, Stream& stream, Options options);
  ~NcclCommunicator() override;

  void all_reduce(float* data, int64_t n) override;
  void gather_columns(const float* part, int64_t rows, std::span<const int64_t> columns,
                      float* whole) override;

  using Communicator::broadcast;
  void broadcast(std::vector<std::byte>& message) override;
  std::vector<std::string> all_gather(const std::string& mine) override;
  void barrier() override { host_.barrier(); }
  void fail(const std::string& why) noexcept override { host_.fail(why); }
  void check() override;
  std::string host(int rank) const override { return host_.host(rank); }
  int ranks_here() const override { return host_.ranks_here(); }

 private:
  void init();
  // Waits until a call has ended.
  void complete(NcclResult result, const char* call);
  void sum_slices(std::byte* data, int64_t n, Element type);
  void abort() noexcept;
  bool wait_until_idle() noexcept;

  Communicator& host_;
  Stream& stream_;
  const Options options_;
  const NcclLibrary* nccl_ = nullptr;
  NcclComm comm_ = nullptr;  // null when aborted
};

}  // namespace nanovllm::cuda
