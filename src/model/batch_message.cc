#include "model/batch_message.h"

#include <array>
#include <cstring>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

// Every member: one that is added to Batch does not compile here until it travels too.
template <typename B>
auto vectors_of(B& batch) {
  auto& [token_ids, positions, slot_mapping, query_start, context_lens, block_tables, logits_rows,
         block_table_stride, block_size] = batch;
  return std::array{&token_ids,    &positions,    &slot_mapping, &query_start,
                    &context_lens, &block_tables, &logits_rows};
}

constexpr size_t kVectors = 7, kHeader = 3 + kVectors;  // words

}  // namespace

int64_t batch_message_bytes(const Batch& batch) {
  size_t words = kHeader;
  for (const auto* v : vectors_of(batch)) words += v->size();
  return static_cast<int64_t>(words * sizeof(int32_t));
}

void write_batch(const Batch& batch, bool may_give_up, std::vector<std::byte>* message) {
  message->resize(static_cast<size_t>(batch_message_bytes(batch)));
  std::byte* out = message->data();
  const auto put = [&out](const int32_t* words, size_t count) {
    if (count > 0) std::memcpy(out, words, count * sizeof(int32_t));
    out += count * sizeof(int32_t);
  };
  const auto vectors = vectors_of(batch);
  std::array<int32_t, kHeader> header = {may_give_up, batch.block_size, batch.block_table_stride};
  for (size_t i = 0; i < kVectors; ++i) header[3 + i] = static_cast<int32_t>(vectors[i]->size());
  put(header.data(), kHeader);
  for (const auto* v : vectors) put(v->data(), v->size());
}

void read_batch(std::span<const std::byte> message, Batch* batch, bool* may_give_up) {
  std::array<int32_t, kHeader> header = {};
  if (message.size() < sizeof header) throw Error("batch", "its message is too short");
  std::memcpy(header.data(), message.data(), sizeof header);
  *may_give_up = header[0] != 0;
  batch->block_size = header[1];
  batch->block_table_stride = header[2];
  std::span<const std::byte> rest = message.subspan(sizeof header);
  const auto vectors = vectors_of(*batch);
  for (size_t i = 0; i < kVectors; ++i) {
    const size_t bytes = static_cast<size_t>(header[3 + i]) * sizeof(int32_t);
    if (header[3 + i] < 0 || bytes > rest.size())
      throw Error("batch", "its message has not the size it says");
    vectors[i]->resize(static_cast<size_t>(header[3 + i]));
    if (bytes > 0) std::memcpy(vectors[i]->data(), rest.data(), bytes);
    rest = rest.subspan(bytes);
  }
  if (!rest.empty()) throw Error("batch", "its message has not the size it says");
}

}  // namespace nanovllm
