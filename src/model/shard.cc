#include "model/shard.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "model/checkpoint.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

[[noreturn]] void refuse(int64_t size, const std::string& why) {
  throw InvalidArgument("--tensor-parallel-size", "is " + std::to_string(size) + ", but " + why);
}

// Piece i of n things in whole units, as even as they allow, larger pieces first.
Range piece(int64_t n, int64_t unit, int64_t i, int64_t pieces) {
  const int64_t units = (n + unit - 1) / unit;
  const auto begin = [&](int64_t j) {
    return std::min(n, (j * (units / pieces) + std::min(j, units % pieces)) * unit);
  };
  return {begin(i), begin(i + 1)};
}

int64_t num_units(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

// Of the preferred size if that leaves enough for all pieces.
int64_t choose_unit(int64_t n, int64_t preferred, int64_t smallest, int64_t pieces) {
  return preferred % smallest == 0 && n % preferred == 0 && n / preferred >= pieces ? preferred
                                                                                    : smallest;
}

// How many ranks share key/value head i, where there are more ranks than heads: the last heads have
// one more.
int64_t sharers(int64_t kv_heads, int64_t size, int64_t i) {
  return size / kv_heads + (i >= kv_heads - size % kv_heads);
}

void cut_heads(const ModelConfig& c, int64_t block, std::vector<Shard>& shards) {
  const auto size = std::ssize(shards);
  const std::string blocks =
      "its attention output weights are stored in blocks of " + std::to_string(block) +
      " columns and cannot be cut into so many between heads of " + std::to_string(c.head_dim);
  if (size > c.num_heads)
    refuse(size, "the model has " + std::to_string(c.num_heads) + " attention heads");
  const int64_t group = c.num_heads / c.num_kv_heads;        // query heads of a key/value head
  const int64_t unit = block / std::gcd(block, c.head_dim);  // query heads between two cuts
  if (size <= c.num_kv_heads) {
    const int64_t kv_unit = unit / std::gcd(unit, group);
    if (num_units(c.num_kv_heads, kv_unit) < size) refuse(size, blocks);
    for (Shard& s : shards) {
      s.kv_heads = piece(c.num_kv_heads, kv_unit, s.rank, size);
      s.heads = {s.kv_heads.begin * group, s.kv_heads.end * group};
    }
    return;
  }
  if (c.num_kv_heads > 1 && group % unit != 0) refuse(size, blocks);
  int64_t rank = 0;
  for (int64_t kv_head = 0; kv_head < c.num_kv_heads; ++kv_head) {
    const int64_t ranks = sharers(c.num_kv_heads, size, kv_head);
    if (num_units(group, unit) < ranks) refuse(size, blocks);
    for (int64_t i = 0; i < ranks; ++i, ++rank) {
      const Range part = piece(group, unit, i, ranks);
      shards[rank].kv_heads = {kv_head, kv_head + 1};
      shards[rank].heads = {kv_head * group + part.begin, kv_head * group + part.end};
    }
  }
}

}  // namespace

CutBlocks cut_blocks(Checkpoint& checkpoint) {
  const ModelConfig& c = checkpoint.config();
  CutBlocks blocks;
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const auto block = [&](const char* name, int64_t in_features) {
      return dtype_block_elements(checkpoint.get(layer + name, {c.hidden_size, in_features}).dtype);
    };
    blocks.o_proj = std::max(blocks.o_proj, block("self_attn.o_proj.weight", c.q_size()));
    blocks.down_proj =
        std::max(blocks.down_proj, block("mlp.down_proj.weight", c.intermediate_size));
  }
  return blocks;
}

std::vector<Shard> make_shards(const ModelConfig& c, const CutBlocks& blocks, int64_t size) {
  std::vector<Shard> shards(size);
  for (int64_t r = 0; r < size; ++r) shards[r].rank = static_cast<int>(r);
  if (size == 1) {
    shards[0] = {
        0, {0, c.num_heads}, {0, c.num_kv_heads}, {0, c.intermediate_size}, {0, c.vocab_size}};
    return shards;
  }
  cut_heads(c, blocks.o_proj, shards);
  if (num_units(c.intermediate_size, blocks.down_proj) < size)
    refuse(size, "its MLP of " + std::to_string(c.intermediate_size) + " columns" +
                     (blocks.down_proj > 1
                          ? ", stored in blocks of " + std::to_string(blocks.down_proj) + ","
                          : "") +
                     " cannot be cut into so many");
  if (c.vocab_size < size)
    refuse(size, "the model has a vocabulary of " + std::to_string(c.vocab_size) + " tokens");
  // Groups of 32 are what --quantization works on, and 16 rows are a panel of the CPU's kernels.
  const int64_t mlp_unit = choose_unit(c.intermediate_size, 32, blocks.down_proj, size);
  const int64_t vocab_unit = choose_unit(c.vocab_size, 16, 1, size);
  for (Shard& s : shards) {
    s.mlp = piece(c.intermediate_size, mlp_unit, s.rank, size);
    s.vocab = piece(c.vocab_size, vocab_unit, s.rank, size);
  }
  return shards;
}

}  // namespace nanovllm
