#include "backend/cuda/graphs.h"

#include <algorithm>

#include "backend/cuda/check.h"

namespace nanovllm::cuda {
namespace {

// A batch of more sequences keeps the device busy for longer than the launches take.
constexpr int64_t kLargest = 512;

// nano-vLLM's sizes: 1, 2, 4, 8 and the multiples of 16.
int64_t graph_size(int64_t seqs) {
  for (const int64_t small : {1, 2, 4, 8})
    if (seqs <= small) return small;
  return (seqs + 15) / 16 * 16;
}

bool decodes_only(const Batch& batch) { return batch.num_tokens() == batch.num_seqs(); }

}  // namespace

Graphs::Graphs(bool enabled, int64_t max_seqs)
    : enabled_(enabled), max_size_(std::min(max_seqs, kLargest)) {}

Graphs::~Graphs() { clear(); }

void Graphs::clear() {
  for (const auto& [size, graph] : graphs_) cudaGraphExecDestroy(graph);
  graphs_.clear();
}

std::vector<int32_t> Graphs::sizes() const {
  std::vector<int32_t> sizes;
  for (int64_t seqs = 1; enabled_ && seqs <= max_size_; seqs = graph_size(seqs) + 1)
    sizes.push_back(static_cast<int32_t>(std::min(graph_size(seqs), max_size_)));
  return sizes;
}

const Batch& Graphs::pad(const Batch& batch) {
  const int64_t seqs = batch.num_seqs();
  if (seqs == 0 || seqs > max_size_ || !decodes_only(batch)) return batch;
  // The largest size may be no multiple of 16: the buffers hold that many sequences and no more.
  const auto size = static_cast<size_t>(std::min(graph_size(seqs), max_size_));
  padded_ = batch;
  padded_.token_ids.resize(size, 0);
  padded_.positions.resize(size, 0);
  padded_.slot_mapping.resize(size, -1);
  padded_.context_lens.resize(size, 0);
  padded_.block_tables.resize(size * static_cast<size_t>(batch.block_table_stride), -1);
  while (padded_.query_start.size() <= size)
    padded_.query_start.push_back(padded_.query_start.back() + 1);
  return padded_;
}

bool Graphs::run(const Batch& padded, const Stream& stream, const std::function<bool()>& forward) {
  if (!enabled_ || &padded != &padded_) return forward();
  if (const auto known = graphs_.find(padded.num_seqs()); known != graphs_.end()) {
    check(cudaGraphLaunch(known->second, stream.get()), "cudaGraphLaunch");
    return true;
  }
  // The first time it runs as it is, which also loads the kernels: that is not allowed in a
  // recording.
  if (!forward()) return false;
  if (const cudaGraphExec_t graph = record(stream, forward)) graphs_[padded.num_seqs()] = graph;
  return true;
}

cudaGraphExec_t Graphs::record(const Stream& stream, const std::function<bool()>& forward) {
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
  cudaGraph_t recorded = nullptr;
  bool complete = false;
  try {
    complete = forward();
  } catch (...) {
    cudaStreamEndCapture(stream.get(), &recorded);
    if (recorded) cudaGraphDestroy(recorded);
    throw;
  }
  check(cudaStreamEndCapture(stream.get(), &recorded), "cudaStreamEndCapture");
  cudaGraphExec_t graph = nullptr;
  const cudaError_t error = complete ? cudaGraphInstantiate(&graph, recorded, 0) : cudaSuccess;
  cudaGraphDestroy(recorded);
  check(error, "cudaGraphInstantiate");
  return graph;
}

}  // namespace nanovllm::cuda
