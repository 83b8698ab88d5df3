#include "backend/cuda/batch_buffers.h"

#include <algorithm>
#include <string>

#include "backend/cuda/check.h"

namespace nanovllm::cuda {
namespace {

// The parts in the order in which they lie, each at a multiple of 16 bytes. The block tables' size
// may change while the numbers of tokens and sequences stay, so what a recorded pass reads lies
// before their end.
struct Layout {
  int64_t stride, token_ids, positions, slots, query_start, context_lens, block_tables, logits_rows,
      params, end;

  Layout(int64_t tokens, int64_t seqs, int64_t table_entries, int64_t rows, int64_t param_rows) {
    int64_t at = 0;
    const auto take = [&](int64_t n) {
      const int64_t first = at;
      at += (n + 3) / 4 * 4;
      return first;
    };
    stride = take(1);
    token_ids = take(tokens);
    positions = take(tokens);
    slots = take(tokens);
    query_start = take(seqs + 1);
    context_lens = take(seqs);
    block_tables = take(table_entries);
    logits_rows = take(rows);
    params = take(param_rows * static_cast<int64_t>(sizeof(RowParams) / 4));
    end = at;
  }
};

}  // namespace

BatchBuffers::BatchBuffers(const StepLimits& limits)
    : limits_(limits), capacity_(bytes(limits) / 4), device_(capacity_ * 4) {
  for (PinnedBuffer& half : host_) half = PinnedBuffer(capacity_ * 4);
}

int64_t BatchBuffers::bytes(const StepLimits& l) {
  const Layout largest(l.max_tokens, l.max_seqs, l.max_seqs * l.max_blocks, l.max_tokens,
                       l.max_tokens);
  return largest.end * 4;
}

DeviceBatch BatchBuffers::upload(const Batch& batch, std::span<const RowParams> params,
                                 const RowParams** device_params, const Stream& stream) {
  const Layout at(batch.num_tokens(), batch.num_seqs(), std::ssize(batch.block_tables),
                  std::ssize(batch.logits_rows), std::ssize(params));
  if (batch.num_tokens() > limits_.max_tokens || batch.num_seqs() > limits_.max_seqs ||
      at.end > capacity_)
    throw Error("batch", "has " + std::to_string(batch.num_tokens()) + " tokens of " +
                             std::to_string(batch.num_seqs()) +
                             " sequences, more than the backend was made for");
  next_ = (next_ + 1) % kCopies;
  copied_[next_].synchronize();
  auto* const host = host_[next_].as<int32_t>();
  auto* const device = device_.as<int32_t>();
  host[at.stride] = batch.block_table_stride;
  std::ranges::copy(batch.token_ids, host + at.token_ids);
  std::ranges::copy(batch.positions, host + at.positions);
  std::ranges::copy(batch.slot_mapping, host + at.slots);
  std::ranges::copy(batch.query_start, host + at.query_start);
  std::ranges::copy(batch.context_lens, host + at.context_lens);
  std::ranges::copy(batch.block_tables, host + at.block_tables);
  std::ranges::copy(batch.logits_rows, host + at.logits_rows);
  std::ranges::copy(params, reinterpret_cast<RowParams*>(host + at.params));
  *device_params = reinterpret_cast<const RowParams*>(device + at.params);
  check(cudaMemcpyAsync(device, host, static_cast<size_t>(at.end) * 4, cudaMemcpyHostToDevice,
                        stream.get()),
        "cudaMemcpyAsync");
  copied_[next_].record(stream);

  DeviceBatch result;
  result.num_tokens = batch.num_tokens();
  result.num_seqs = batch.num_seqs();
  while (result.num_decodes < result.num_seqs &&
         batch.query_start[result.num_decodes + 1] - batch.query_start[result.num_decodes] == 1)
    ++result.num_decodes;
  result.token_ids = device + at.token_ids;
  result.positions = device + at.positions;
  result.slots = device + at.slots;
  result.query_start = device + at.query_start;
  result.context_lens = device + at.context_lens;
  result.block_tables = device + at.block_tables;
  result.table_stride = device + at.stride;
  result.logits_rows = device + at.logits_rows;
  return result;
}

}  // namespace nanovllm::cuda
