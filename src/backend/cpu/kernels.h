// The kernels' dispatch table: one instance per instruction set, each compiled from the same source
// (generic/*.h) with that set's compiler flags.
//
// This header and everything the kernel files include stay free of the standard library, and all
// their functions have internal linkage: an inline function compiled for AVX-512 would be a weak
// symbol that the linker may pick for generic code, and the program would then crash on a machine
// without AVX-512. tools in tests/backend check that none leaks.
//
// Every kernel is a pure function of its arguments, called by any thread. Each output element is
// computed by one fixed sequence of IEEE operations, whatever the instruction set, so all tables
// give the same bits.
#pragma once

#include "backend/cpu/kv_layout.h"
#include "backend/cpu/panels.h"

namespace nanovllm {

// The arithmetic of a product; generic/linear.h defines them.
enum class LinearMode : uint8_t {
  kFloat,  // multiply-adds in float32
  kPairs,  // bfloat16 dot products: bfloat16 weights where the instruction set has them
  // Integer dot products: quantized weights, unless float32 is asked for.
  kBytes,  // activations of 8 bits
  kWords,  // activations of 16 bits, in two planes of bytes
};
static constexpr bool takes_bytes(PanelKind kind) {
  return panel_format(kind).bits == 8 || kind == PanelKind::kQ4;
}
static constexpr bool takes_words(PanelKind kind) {
  return panel_format(kind).bits == 4 || panel_format(kind).bits == 6;
}

// out[r, n] = sum_k x[r, k] * W[n, k] + bias[n]
struct LinearArgs {
  PanelKind kind;
  LinearMode mode;
  const uint8_t* panels;  // panel p starts at panels + p * panel_bytes(kind, k)
  int64_t k;              // input features
  int64_t n;              // columns of these panels; the last panel may be partly used
  const float* bias;      // [n] or null
  int most_neighbours;    // kBytes: what two neighbouring quants of x may sum to (panels.h)
  const float* x;         // [rows, k], rows x_stride apart
  int64_t x_stride;
  int64_t rows;
  void* prepared;  // x as the panels take it (prepared_bytes); one row of floats needs none
  float* out;      // [rows, n], rows out_stride apart
  int64_t out_stride;
};

// Rows of one linear call are taken up to 240 at a time against 256 steps of K or more of 8 panels:
// x and the sums (some 250 and 120 KiB) stay in a second-level cache of 512 KiB, an unpacked panel
// in the first.
static constexpr int kLinearSteps = 256;
static constexpr int kLinearRows = 240;
static constexpr int kLinearPanels = 8;
static constexpr int64_t kLinearScratch =
    (kLinearSteps + kLinearPanels * kLinearRows) * kPanelColumns;  // floats

// Rows are cut into tiles of nearly equal size: a tile of one or two rows would wait for its own
// sums.
static constexpr int64_t tile_count(int64_t rows, int64_t most) { return (rows + most - 1) / most; }
static constexpr int64_t tile_start(int64_t tile, int64_t tiles, int64_t rows) {
  const int64_t extra = rows % tiles;
  return rows / tiles * tile + (tile < extra ? tile : extra);
}

// Bytes of a row's 32 steps in kBytes and kWords: quants, scale, three sums, two zero points.
static constexpr int64_t activation_group_bytes(LinearMode mode) {
  return kQuantGroup * (mode == LinearMode::kWords ? 2 : 1) + 6 * 4;
}

static constexpr int64_t prepared_bytes(LinearMode mode, int64_t rows, int64_t k) {
  if (mode == LinearMode::kFloat) return rows * k * 4;
  if (mode == LinearMode::kPairs) return rows * ((k + 1) / 2) * 4;
  return rows * ((k + kQuantGroup - 1) / kQuantGroup) * activation_group_bytes(mode);
}

// Attention takes keys in segments at absolute positions (generic/attention.h): 256, so that a
// segment of values in 16 dimensions, widened to floats, fills half a first-level cache of 32 KiB.
// Query rows of one (sequence, kv head) go in tiles: 96 rows share the widening of a segment, which
// is then some 3 % of their work, and their scores, queries and outputs fit a second-level cache of
// 512 KiB.
static constexpr int64_t kAttentionSegment = 256;
static constexpr int64_t kAttentionRows = 96;
// Few rows (decoding) read the cache as it lies: up to 16 kv heads of a block after each other, 16
// rows and kAttentionRows in all.
static constexpr int64_t kAttentionHeads = 16, kAttentionHeadRows = 16;
static constexpr int64_t kAttentionSums = kAttentionHeads * kAttentionHeadRows;

static constexpr int64_t padded16(int64_t n) { return (n + 15) / 16 * 16; }

// Floats of a widened panel, the larger of 16 keys and of a segment of values in 16 dimensions; of
// all scratch that attention needs for one thread; and of one row's state.
static constexpr int64_t attention_panel(int64_t head_dim) {
  return 16 * (padded16(head_dim) > kAttentionSegment ? padded16(head_dim) : kAttentionSegment);
}
static constexpr int64_t attention_scratch(int64_t head_dim) {
  return attention_panel(head_dim) + kAttentionSegment * padded16(head_dim) +
         kAttentionRows * (2 * padded16(head_dim) + kAttentionSegment + 16 + 3) +
         4 * kAttentionSums + 2 * kAttentionSegment;
}
static constexpr int64_t attention_state(int64_t head_dim) { return padded16(head_dim) + 16; }

struct AttentionArgs {
  KVLayer kv;
  const int32_t* block_table;     // of this sequence
  int64_t kv_head, num_kv_heads;  // the first, and how many: one unless rows are few
  int64_t group;                  // query heads per kv head
  const float*
      q;  // query of this kv head's first query head at the sequence's first token of the step
  int64_t q_stride;  // floats between tokens
  float* out;        // the same for the output
  int64_t out_stride;
  float* state;  // if not null: [segments][kv heads][rows][attention_state] instead of out
  int64_t first_position;  // of the sequence's first token of the step
  int64_t window;          // 0: none
  float scale;
  int64_t first_row, last_row;  // of the rows (token * group + head), at most kAttentionRows
  int64_t first_segment, last_segment;  // of the keys
  float* scratch;                       // attention_scratch floats
};

// Merges one row's states of consecutive segments, which it overwrites, into its output.
struct AttentionMergeArgs {
  float* states;
  int64_t num_states, state_distance;  // floats between states
  int64_t head_dim;
  float* out;  // [head_dim]
};

struct RopeArgs {
  KVLayer kv;
  int64_t num_heads, rotary_dim;
  const float* q_norm;  // [head_dim] or null
  const float* k_norm;
  float norm_eps;
  const float*
      cos_sin;  // the row of this token's position: cos [rotary_dim / 2], sin [rotary_dim / 2]
  bool interleaved;
  int64_t slot;
  float* qkv;  // this token's row
};

// The sampler looks at the logits this many at a time.
static constexpr int kVocabularyBlock = 64;

// Sums of weights (see KernelTable::weights) over blocks of x: of the elements that are above
// `floor`, or equal to it and before index `pivot`.
struct BlockSumArgs {
  const float* x;  // [n]
  int64_t n;
  const int32_t* blocks;  // [num_blocks]
  int64_t num_blocks;
  float max, inverse_temperature;
  float floor, above_floor;  // above_floor: the next larger float
  int64_t pivot;
};

struct KernelTable {
  const char* name;               // "scalar", "avx2", ...
  bool has_pairs;                 // bfloat16 weights are multiplied in kPairs
  int tile_rows, byte_tile_rows;  // rows of a tile at most: kFloat and kPairs, kBytes
  // Arranges the rows of x in args.prepared, tiles first .. last.
  void (*prepare)(const LinearArgs& args, int64_t first, int64_t last);
  // Panels first .. last of a linear; scratch holds kLinearScratch floats.
  void (*linear)(const LinearArgs& args, int64_t first, int64_t last, float* scratch);
  // One column of a panel as float: a row of the original matrix.
  void (*dequantize_column)(PanelKind kind, const uint8_t* panel, int column, int64_t k,
                            float* out);
  // out = rms_norm(x) * weight; residual, if not null, is first added to x and keeps the sum.
  void (*rms_norm)(const float* x, float* residual, const float* weight, float eps, int64_t dim,
                   float* out);
  void (*silu_mul)(const float* gate, const float* up, int64_t dim, float* out);
  void (*rope_and_store)(const RopeArgs& args);
  void (*attention)(const AttentionArgs& args);
  void (*attention_merge)(const AttentionMergeArgs& args);
  // out[b] = the largest of block b of x [n]; NaN counts as minus infinity.
  void (*block_maxima)(const float* x, int64_t n, float* out);
  // out[i] = exp((x[i] - max) * inverse_temperature), 0 for NaN; max is the largest x, and finite.
  void (*weights)(const float* x, int64_t n, float max, float inverse_temperature, float* out);
  void (*block_sums)(const BlockSumArgs& args, float* out);  // out [num_blocks]
};

// Null on a machine of another architecture.
const KernelTable* kernels_scalar();
const KernelTable* kernels_avx2();
const KernelTable* kernels_avxvnni();
const KernelTable* kernels_avx512();
const KernelTable* kernels_avx512_bf16();
const KernelTable* kernels_neon();

}  // namespace nanovllm
