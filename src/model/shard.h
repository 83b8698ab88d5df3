// Shard: the part of a model that one rank of a tensor-parallel engine holds, as plain numbers.
//
// Projections out of the residual stream (q, k, v, gate, up) are cut by rows: a rank has whole
// heads and some of the MLP's columns. Those back into it (o, down) are cut by columns, so that a
// rank's product is a partial sum. Embedding and head are cut by rows of the vocabulary. Where
// there are fewer key/value heads than ranks, several ranks hold the same one and share its query
// heads. Norms and biases of o and down are whole; docs/parallel.md has the table.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model_config.h"

namespace nanovllm {

class Checkpoint;

struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  friend bool operator==(const Range&, const Range&) = default;
};

struct Shard {
  int rank = 0;
  // Query heads, key/value heads, columns between the two halves of the MLP, rows of the
  // vocabulary. heads.size() is a multiple of kv_heads.size(), and the query heads of a key/value
  // head lie together as in the whole model.
  Range heads, kv_heads, mlp, vocab;
};

// Elements in the blocks of the weights that are cut by columns; 1 where they are not quantized.
struct CutBlocks {
  int64_t o_proj = 1, down_proj = 1;
};
CutBlocks cut_blocks(Checkpoint& checkpoint);

// One a rank, as even as heads and blocks allow; rank 0's is never the smaller one. Throws
// InvalidArgument naming --tensor-parallel-size where the model cannot be cut into so many.
std::vector<Shard> make_shards(const ModelConfig& config, const CutBlocks& blocks, int64_t size);

}  // namespace nanovllm
