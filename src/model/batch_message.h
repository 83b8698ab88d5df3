// A Batch as the one message that a step sends from rank 0 to the others.
//
//   int32  flags, block_size, block_table_stride, then the size of each vector in the order of
//          Batch's members, then their elements in the same order
//
// In the byte order of the machine: ranks on machines of another are refused at the start.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "backend/batch.h"

namespace nanovllm {

// may_give_up: rank 0 may end this step between two layers. Allocates only to grow.
void write_batch(const Batch& batch, bool may_give_up, std::vector<std::byte>* message);
// Throws Error for what write_batch cannot have written.
void read_batch(std::span<const std::byte> message, Batch* batch, bool* may_give_up);

// Bytes of the message of such a batch.
int64_t batch_message_bytes(const Batch& batch);

}  // namespace nanovllm
