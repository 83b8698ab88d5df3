// NCCL under emulation, for ranks that are threads of one process: what load_nccl() gives where the
// backend is compiled with the headers here. A call becomes work of the stream, which is done when
// the other rank's has come to the matching one.
//
// As for a communicator that does not block, each call is under way until it is asked about. A call
// before the last one has ended is an error, as is an abort while a graph has calls of it, for
// which NCCL would wait.
#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "backend/cuda/nccl_library.h"

namespace nanovllm::cuda {
namespace {

using emulation::fail;

struct Pending {
  size_t left = 0;  // transfers
};
struct End {  // of a transfer
  const void* data;
  size_t bytes;
  std::shared_ptr<Pending> call;
};

// The ranks with one id.
struct World {
  int size = 0, joined = 0;
  std::map<std::pair<int, int>, std::deque<End>> sends, receives;  // by from and to

  void match(std::pair<int, int> pair) {
    auto &s = sends[pair], &r = receives[pair];
    while (!s.empty() && !r.empty()) {
      if (s.front().bytes != r.front().bytes) fail("NCCL", "sends and receives different sizes");
      std::memcpy(const_cast<void*>(r.front().data), s.front().data, s.front().bytes);
      for (auto* ends : {&s, &r}) {
        --ends->front().call->left;
        ends->pop_front();
      }
    }
  }
};

struct Transfer {
  int other;
  const void* send;  // else receive
  void* receive;
  size_t bytes;
};

std::map<int, std::shared_ptr<World>>& worlds() {
  static auto* w = new std::map<int, std::shared_ptr<World>>;
  return *w;
}

// What a rank's work in streams and graphs refers to.
struct RankState {
  std::shared_ptr<World> world;
  int rank;
  bool aborted = false;
  std::shared_ptr<Pending> call = nullptr;  // that the stream is at

  bool proceed(const std::vector<Transfer>& transfers) {
    if (aborted) return true;
    if (!call) {
      call = std::make_shared<Pending>(transfers.size());
      for (const Transfer& t : transfers) {
        const std::pair pair = t.send ? std::pair(rank, t.other) : std::pair(t.other, rank);
        auto& ends = t.send ? world->sends : world->receives;
        ends[pair].push_back({t.send ? t.send : t.receive, t.bytes, call});
        world->match(pair);
      }
    }
    if (call->left > 0) return false;
    call = nullptr;
    return true;
  }
  void abort() {
    aborted = true;
    for (auto* all : {&world->sends, &world->receives})
      for (auto& [pair, ends] : *all)
        std::erase_if(ends, [&](const End& end) { return call && end.call == call; });
    call = nullptr;
  }
};

}  // namespace

struct NcclCommOpaque {
  std::shared_ptr<RankState> state;
  bool under_way = true;
  cudaStream_t stream = nullptr;
};

namespace {

// Of the calling thread, between GroupStart and GroupEnd.
thread_local int group_depth = 0;
thread_local NcclComm group_comm = nullptr;
thread_local cudaStream_t group_stream = nullptr;
thread_local std::vector<Transfer> group;

size_t type_bytes(NcclType type) { return type == kNcclFloat32 ? 4 : 2; }

NcclResult end_call(NcclComm comm, cudaStream_t stream, std::vector<Transfer> transfers) {
  const std::lock_guard guard(emulation::lock());
  if (std::exchange(comm->under_way, true))
    fail("NCCL", "is called before the last call has ended");
  comm->stream = stream;
  const auto error = emulation::enqueue_until(
      stream, [state = comm->state, all = std::move(transfers)] { return state->proceed(all); });
  return error == cudaSuccess ? kNcclInProgress : static_cast<NcclResult>(1);
}

NcclResult add(NcclComm comm, cudaStream_t stream, const std::vector<Transfer>& transfers) {
  group_comm = comm;
  group_stream = stream;
  group.insert(group.end(), transfers.begin(), transfers.end());
  return group_depth > 0 ? kNcclSuccess
                         : end_call(group_comm, group_stream, std::exchange(group, {}));
}

const NcclLibrary kLibrary = {
    .GetErrorString = [](NcclResult) { return "an error of the emulation"; },
    .GetUniqueId =
        [](NcclId* id) {
          static int last = 0;
          const std::lock_guard guard(emulation::lock());
          ++last;
          worlds()[last] = std::make_shared<World>();
          std::memcpy(id->bytes, &last, sizeof last);
          return kNcclSuccess;
        },
    .CommInitRankConfig =
        [](NcclComm* comm, int size, NcclId id, int rank, NcclConfig* config) {
          if (config->blocking != 0) fail("NCCL", "would block");
          int number;
          std::memcpy(&number, id.bytes, sizeof number);
          const std::lock_guard guard(emulation::lock());
          const auto world = worlds().at(number);
          world->size = size;
          ++world->joined;
          *comm = new NcclCommOpaque{std::make_shared<RankState>(RankState{world, rank})};
          return kNcclInProgress;
        },
    .CommGetAsyncError =
        [](NcclComm comm, NcclResult* result) {
          const std::lock_guard guard(emulation::lock());
          const World& world = *comm->state->world;
          comm->under_way = world.joined < world.size;
          *result = comm->under_way ? kNcclInProgress : kNcclSuccess;
          return kNcclSuccess;
        },
    .CommAbort =
        [](NcclComm comm) {
          const std::lock_guard guard(emulation::lock());
          comm->state->abort();
          if (comm->stream) cudaStreamQuery(comm->stream);  // now nothing holds it up
          if (comm->state.use_count() > 1) fail("ncclCommAbort", "would wait for a graph");
          delete comm;
          return kNcclSuccess;
        },
    .AllGather =
        [](const void* from, void* to, size_t count, NcclType type, NcclComm comm,
           cudaStream_t stream) {
          std::vector<Transfer> all;
          const size_t bytes = count * type_bytes(type);
          for (int r = 0; r < comm->state->world->size; ++r) {
            all.push_back({r, from, nullptr, bytes});
            all.push_back(
                {r, nullptr, static_cast<char*>(to) + static_cast<size_t>(r) * bytes, bytes});
          }
          return add(comm, stream, all);
        },
    .Send =
        [](const void* from, size_t count, NcclType type, int to, NcclComm comm,
           cudaStream_t stream) {
          return add(comm, stream, {{to, from, nullptr, count * type_bytes(type)}});
        },
    .Recv =
        [](void* to, size_t count, NcclType type, int from, NcclComm comm, cudaStream_t stream) {
          return add(comm, stream, {{from, nullptr, to, count * type_bytes(type)}});
        },
    .GroupStart =
        [] {
          ++group_depth;
          return kNcclSuccess;
        },
    .GroupEnd =
        [] {
          if (--group_depth > 0 || group.empty()) return kNcclSuccess;
          return end_call(group_comm, group_stream, std::exchange(group, {}));
        },
};

}  // namespace

const NcclLibrary& load_nccl() { return kLibrary; }

}  // namespace nanovllm::cuda
