// Communicator: what the ranks of one engine say to each other. A rank is one of size() workers
// that hold a slice of every weight each and run every step together; rank 0 schedules.
// docs/parallel.md shows which call is made where.
//
// Each rank has one and calls it from one thread; all ranks make the same calls in the same order.
// all_reduce and gather_columns take memory of the backend and come in the order of its calls
// (Backend::connect); the rest is said between hosts. Steady calls allocate nothing. Bitwise, what
// all_reduce gives depends on the number of ranks only.
//
// A call that cannot end because a rank has failed, died or stopped throws Error("rank 2 on
// host-b", why) on every other rank, and so does each call after it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nanovllm {

class Communicator {
 public:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // data[i] = the sum of all ranks' data[i], added in the order of the ranks. As ((0 + 1) + 2) + 3
  // whatever n is, so that a token's sum does not depend on how many others there are.
  virtual void all_reduce(float* data, int64_t n) = 0;
  // Rank r's part is [rows, columns[r]]; on rank 0 whole becomes [rows, sum of columns], the parts
  // side by side. Others' whole is not touched and may be null.
  virtual void gather_columns(const float* part, int64_t rows, std::span<const int64_t> columns,
                              float* whole) = 0;

  // Rank 0's message, on every rank; the others need not know its size. Others wait as long as it
  // takes, without using the processor.
  virtual void broadcast(std::vector<std::byte>& message) = 0;
  bool broadcast(bool value) {  // rank 0's
    if (size_ == 1) return value;
    flag_.assign(1, static_cast<std::byte>(value));
    broadcast(flag_);
    return !flag_.empty() && flag_[0] != std::byte{0};
  }
  // Every rank's text, in their order, on every rank.
  virtual std::vector<std::string> all_gather(const std::string& mine) = 0;
  virtual void barrier() = 0;

  // This rank cannot go on: calls of the others, under way or to come, throw with `why`.
  virtual void fail(const std::string& why) noexcept = 0;

  // Throws as a call would if another rank is known to have failed. Asks nobody and waits for
  // nobody.
  virtual void check() {}

  // "host-b" of each rank, and how many ranks share this one's processors, itself included.
  virtual std::string host(int rank) const = 0;
  virtual int ranks_here() const = 0;
  // Payload that has come from other ranks, in bytes. The sum over the ranks is what was exchanged.
  int64_t bytes_received() const { return bytes_received_; }

 protected:
  int64_t bytes_received_ = 0;

 private:
  const int rank_, size_;
  std::vector<std::byte> flag_;
};

// The one rank of an engine that is not split: every call is done already.
class SingleRank final : public Communicator {
 public:
  SingleRank() : Communicator(0, 1) {}
  void all_reduce(float*, int64_t) override {}
  void gather_columns(const float* part, int64_t rows, std::span<const int64_t> columns,
                      float* whole) override;
  using Communicator::broadcast;
  void broadcast(std::vector<std::byte>&) override {}
  std::vector<std::string> all_gather(const std::string& mine) override { return {mine}; }
  void barrier() override {}
  void fail(const std::string&) noexcept override {}
  std::string host(int) const override { return host_name(); }
  int ranks_here() const override { return 1; }

  static std::string host_name();
};

}  // namespace nanovllm
