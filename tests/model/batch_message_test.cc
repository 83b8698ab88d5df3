// A Batch arrives as it was sent, whatever its sizes; nothing else is taken for one.
#include "model/batch_message.h"

#include <gtest/gtest.h>

#include <random>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

Batch random_batch(std::mt19937& rng) {
  const auto fill = [&](std::vector<int32_t>* v) {
    v->resize(std::uniform_int_distribution<size_t>(0, 30)(rng));
    for (int32_t& x : *v) x = static_cast<int32_t>(rng());
  };
  Batch b;
  for (auto* v : {&b.token_ids, &b.positions, &b.slot_mapping, &b.query_start, &b.context_lens,
                  &b.block_tables, &b.logits_rows})
    fill(v);
  b.block_table_stride = static_cast<int32_t>(rng() % 100);
  b.block_size = static_cast<int32_t>(rng() % 100);
  return b;
}

TEST(BatchMessage, ArrivesAsItWasSent) {
  std::mt19937 rng(7);
  std::vector<std::byte> message;
  Batch got;
  for (int i = 0; i < 50; ++i) {
    const Batch sent = random_batch(rng);
    write_batch(sent, i % 2, &message);
    EXPECT_EQ(std::ssize(message), batch_message_bytes(sent));
    bool may_give_up = i % 2 == 0;
    read_batch(message, &got, &may_give_up);
    EXPECT_EQ(may_give_up, i % 2 == 1);
    EXPECT_EQ(got.token_ids, sent.token_ids);
    EXPECT_EQ(got.positions, sent.positions);
    EXPECT_EQ(got.slot_mapping, sent.slot_mapping);
    EXPECT_EQ(got.query_start, sent.query_start);
    EXPECT_EQ(got.context_lens, sent.context_lens);
    EXPECT_EQ(got.block_tables, sent.block_tables);
    EXPECT_EQ(got.logits_rows, sent.logits_rows);
    EXPECT_EQ(got.block_table_stride, sent.block_table_stride);
    EXPECT_EQ(got.block_size, sent.block_size);
  }
}

TEST(BatchMessage, RefusesOtherMessages) {
  std::mt19937 rng(8);
  std::vector<std::byte> message;
  write_batch(random_batch(rng), false, &message);
  Batch batch;
  bool may_give_up = false;
  for (size_t size = 0; size < message.size(); ++size)
    EXPECT_THROW(read_batch(std::span(message).first(size), &batch, &may_give_up), Error);
  std::vector<std::byte> longer = message;
  longer.push_back(std::byte{0});
  EXPECT_THROW(read_batch(longer, &batch, &may_give_up), Error);
  std::vector<std::byte> negative = message;
  for (size_t byte = 12; byte < 16; ++byte) negative[byte] = std::byte{0xff};
  EXPECT_THROW(read_batch(negative, &batch, &may_give_up), Error);
}

}  // namespace
}  // namespace nanovllm
