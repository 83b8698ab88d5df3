#include "backend/cuda/nccl_communicator.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <thread>

#include "backend/cuda/check.h"
#include "parallel/slices.h"

namespace nanovllm::cuda {
namespace {

// Up to here one exchange takes less than two: 1 MiB crosses NVLink in 2 microseconds, and a call
// of NCCL takes some 10.
constexpr int64_t kFewBytes = 1 << 20;

NcclType nccl_type(Element e) { return e == Element::kFloat32 ? kNcclFloat32 : kNcclBFloat16; }

}  // namespace

NcclCommunicator::NcclCommunicator(Communicator& host, Stream& stream, Options options)
    : Communicator(host.rank(), host.size()),
      host_(host),
      stream_(stream),
      options_(std::move(options)) {
  std::string problem;
  try {
    nccl_ = &load_nccl();
  } catch (const Error& e) {
    problem = e.what();
  }
  const std::vector<std::string> problems = host_.all_gather(problem);
  for (int r = 0; r < size(); ++r)
    if (!problems[r].empty())
      throw Error("rank " + std::to_string(r) + " on " + host_.host(r), problems[r]);
  try {
    init();
  } catch (const std::exception& e) {
    host_.fail(e.what());
    abort();
    throw;
  }
  stream_.watch([this] { check(); });
}

void NcclCommunicator::init() {
  NcclId id = {};
  std::vector<std::byte> message;
  if (rank() == 0 && nccl_->GetUniqueId(&id) == kNcclSuccess) {
    message.resize(sizeof id);
    std::memcpy(message.data(), &id, sizeof id);
  }
  host_.broadcast(message);
  if (message.size() != sizeof id) throw Error("NCCL", "cannot listen on rank 0");
  std::memcpy(&id, message.data(), sizeof id);
  NcclConfig config;
  complete(nccl_->CommInitRankConfig(&comm_, size(), id, rank(), &config), "ncclCommInitRank");
}

// Buffers of another rank may be read until it is idle, too.
NcclCommunicator::~NcclCommunicator() {
  stream_.watch(nullptr);
  if (comm_ && wait_until_idle() && std::uncaught_exceptions() == 0) {
    try {
      host_.barrier();
    } catch (const Error&) {  // another rank has failed
    }
  }
  abort();
}

bool NcclCommunicator::wait_until_idle() noexcept {
  constexpr std::chrono::seconds kPatience{2};
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < end) {
    if (const cudaError_t state = cudaStreamQuery(stream_.get()); state != cudaErrorNotReady)
      return state == cudaSuccess;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return false;
}

void NcclCommunicator::abort() noexcept {
  if (!comm_) return;
  options_.destroy_graphs();
  nccl_->CommAbort(std::exchange(comm_, nullptr));
}

void NcclCommunicator::check() {
  try {
    host_.check();
    if (!comm_) throw Error("NCCL", "was aborted");
    NcclResult state = kNcclSuccess;
    const NcclResult asked = nccl_->CommGetAsyncError(comm_, &state);
    for (const NcclResult r : {asked, state})
      if (r != kNcclSuccess && r != kNcclInProgress) throw Error("NCCL", nccl_->GetErrorString(r));
  } catch (...) {
    abort();
    throw;
  }
}

void NcclCommunicator::complete(NcclResult result, const char* call) {
  for (int tries = 0; result == kNcclInProgress; ++tries) {
    check();
    nccl_->CommGetAsyncError(comm_, &result);
    if (result != kNcclInProgress) break;
    if (tries < 1000)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (result == kNcclSuccess) return;
  abort();
  throw Error(call, nccl_->GetErrorString(result));
}

void NcclCommunicator::all_reduce(float* data, int64_t n) {
  if (n == 0) return;
  check();
  const Element type = options_.element_of(data);
  const int64_t bytes = n * element_bytes(type);
  bytes_received_ += bytes * (size() - 1);
  if (bytes <= kFewBytes && bytes * size() <= options_.scratch.bytes) {
    complete(nccl_->AllGather(data, options_.scratch.data, static_cast<size_t>(n), nccl_type(type),
                              comm_, stream_.get()),
             "ncclAllGather");
    return sum_ranks(type, options_.scratch.data, size(), n, data, stream_.get());
  }
  // A piece's slices, padded to whole lines, fit into half of the scratch and so into all of it.
  const int64_t most = options_.scratch.bytes / 2 / element_bytes(type);
  for (int64_t first = 0; first < n; first += most)
    sum_slices(reinterpret_cast<std::byte*>(data) + first * element_bytes(type),
               std::min(most, n - first), type);
}

void NcclCommunicator::sum_slices(std::byte* data, int64_t n, Element type) {
  const int64_t each = element_bytes(type);
  const Slice mine = sum_slice(n, rank(), size());
  const auto slice = [&](int r) { return sum_slice(n, r, size()); };
  const auto send = [&](const Slice& s, int to) {
    if (s.size() > 0)
      nccl_->Send(data + s.begin * each, static_cast<size_t>(s.size()), nccl_type(type), to, comm_,
                  stream_.get());
  };
  const auto receive = [&](std::byte* to, const Slice& s, int from) {
    if (s.size() > 0)
      nccl_->Recv(to, static_cast<size_t>(s.size()), nccl_type(type), from, comm_, stream_.get());
  };
  nccl_->GroupStart();
  for (int r = 0; r < size(); ++r) {
    send(slice(r), r);
    receive(options_.scratch.data + r * mine.size() * each, mine, r);
  }
  complete(nccl_->GroupEnd(), "ncclSend and ncclRecv");
  sum_ranks(type, options_.scratch.data, size(), mine.size(), data + mine.begin * each,
            stream_.get());
  nccl_->GroupStart();
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    send(mine, r);
    receive(data + slice(r).begin * each, slice(r), r);
  }
  complete(nccl_->GroupEnd(), "ncclSend and ncclRecv");
}

void NcclCommunicator::gather_columns(const float* part, int64_t rows,
                                      std::span<const int64_t> columns, float* whole) {
  check();
  int64_t width = 0;
  for (const int64_t n : columns) width += n;
  const int64_t most = options_.scratch.bytes / 4 / std::max<int64_t>(width - columns[0], 1);
  if (most == 0) throw Error("gather_columns", "has rows that are too long");
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    auto* const scratch = reinterpret_cast<float*>(options_.scratch.data);
    nccl_->GroupStart();
    if (rank() > 0) {
      nccl_->Send(part + first * columns[rank()], static_cast<size_t>(count * columns[rank()]),
                  kNcclFloat32, 0, comm_, stream_.get());
    } else {
      for (int64_t r = 1, at = 0; r < size(); at += count * columns[r++])
        nccl_->Recv(scratch + at, static_cast<size_t>(count * columns[r]), kNcclFloat32,
                    static_cast<int>(r), comm_, stream_.get());
    }
    complete(nccl_->GroupEnd(), "ncclSend and ncclRecv");
    if (rank() > 0) continue;
    const auto place = [&](const float* from, int64_t column, int64_t n) {
      nanovllm::cuda::check(
          cudaMemcpy2DAsync(whole + first * width + column, static_cast<size_t>(width) * 4, from,
                            static_cast<size_t>(n) * 4, static_cast<size_t>(n) * 4,
                            static_cast<size_t>(count), cudaMemcpyDeviceToDevice, stream_.get()),
          "cudaMemcpy2DAsync");
    };
    place(part + first * columns[0], 0, columns[0]);
    for (int64_t r = 1, at = 0, column = columns[0]; r < size(); ++r) {
      place(scratch + at, column, columns[r]);
      at += count * columns[r];
      column += columns[r];
      bytes_received_ += count * columns[r] * 4;
    }
  }
}

void NcclCommunicator::broadcast(std::vector<std::byte>& message) {
  const int64_t before = host_.bytes_received();
  host_.broadcast(message);
  bytes_received_ += host_.bytes_received() - before;
}

std::vector<std::string> NcclCommunicator::all_gather(const std::string& mine) {
  const int64_t before = host_.bytes_received();
  std::vector<std::string> all = host_.all_gather(mine);
  bytes_received_ += host_.bytes_received() - before;
  return all;
}

}  // namespace nanovllm::cuda
