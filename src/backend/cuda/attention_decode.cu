// Attention of single tokens: bound by reading the cache. The query heads of a kv head read its
// keys and values once, as the sixteen rows of a tile on tensor cores, which have time to spare. A
// sequence's keys are split over several blocks where there are fewer sequences than the device has
// room for; the block that ends last merges what they found.
//
// Each warp has a pipeline of its own: while it works on 16 keys, the copies of the next 32 are
// under way, and no warp waits for another before the end.
#include <algorithm>

#include "backend/cuda/attention_mma.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32, kKeys = 16, kStages = 3, kRows = 16;

// Shared memory: of each warp the stages of its pipeline, keys and values. Before the last stage of
// the first warp is filled, the queries lie there; when all is read, each warp's outputs, maxima
// and sums. GPUs other than data centers' have 99 KB for a block.
template <int dim>
constexpr size_t shared_bytes() {
  return sizeof(bf16) * dim * kWarps * kStages * 2 * kKeys;
}
static_assert(kRows <= 2 * kKeys && shared_bytes<128>() <= 99 * 1024);

// What a block leaves for the one that merges: its rows' outputs, then their maxima, then their
// sums.
template <int dim>
constexpr int kPartFloats = kRows*(dim + 2);

// The parts of all blocks, and how many blocks of a (sequence, kv head) have ended.
struct Parts {
  float* parts;
  unsigned* ended;
};

template <int dim>
__global__ void __launch_bounds__(kThreads)
    decode_kernel(AttentionArgs args, DeviceBatch batch, KVCache cache, int group, int row_tiles,
                  Parts parts) {
  constexpr int units = dim / 8;
  bf16* const pipelines = dynamic_shared<bf16>();
  bf16* const queries = pipelines + (kStages - 1) * 2 * kKeys * dim;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int seq = static_cast<int>(blockIdx.z), split = static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y) / row_tiles;
  // Of the group's heads, sixteen at most.
  const int first_head = kv_head * group + static_cast<int>(blockIdx.y) % row_tiles * kRows;
  const int rows = min(kRows, (kv_head + 1) * group - first_head);

  wait_for_previous_kernel();
  let_next_kernel_start();
  bf16* const out =
      static_cast<bf16*>(args.out) + (int64_t{seq} * args.num_heads + first_head) * dim;
  const int context = batch.context_lens[seq];
  if (context == 0) {  // padding
    for (int i = thread; i < rows * dim && split == 0; i += kThreads) out[i] = from_float<bf16>(0);
    return;
  }

  // The keys that are seen, in tiles; each block takes as many, a multiple of what its warps take
  // at once.
  const int first_key =
      args.window > 0 && args.window < context ? context - static_cast<int>(args.window) : 0;
  const int first_tile = first_key / kKeys, num_tiles = (context + kKeys - 1) / kKeys - first_tile;
  const int splits = static_cast<int>(gridDim.x);
  const int share = ((num_tiles + splits - 1) / splits + kWarps - 1) / kWarps * kWarps;
  const int used_splits = (num_tiles + share - 1) / share;
  if (split >= used_splits) return;
  const int last_tile = first_tile + min(num_tiles, (split + 1) * share);

  // Queries first, then the pipeline's first stages.
  const bf16* const query =
      static_cast<const bf16*>(args.qkv) +
      (int64_t{seq} * (args.num_heads + 2 * cache.num_kv_heads) + first_head) * dim;
  for (int i = thread; i < kRows * units; i += kThreads) {
    const int row = i / units, unit = i % units;
    start_copy(unit_address<dim>(queries, row, unit), query + min(row, rows - 1) * dim + unit * 8,
               row < rows);
  }
  end_copy_group();

  bf16* const pipeline = pipelines + warp * kStages * 2 * kKeys * dim;
  const int32_t* table = batch.block_tables + int64_t{seq} * *batch.table_stride;
  const auto find = [&](int tile) {  // where the tile's key of this lane lies
    const int key = tile * kKeys + lane % kKeys;
    if (tile >= last_tile || key >= context) return int64_t{-1};
    return cache_offset(
        cache, table[key / cache.block_size] * cache.block_size + key % cache.block_size, kv_head);
  };
  const auto start_copies = [&](int64_t place, int stage) {
    bf16* const keys = pipeline + stage * 2 * kKeys * dim;
    bf16* const values = keys + kKeys * dim;
#pragma unroll
    for (int i = 0; i < units / 2; ++i) {
      const int row = (i * 32 + lane) / units, unit = (i * 32 + lane) % units;
      const int64_t from = __shfl_sync(kAllLanes, place, row);
      const int64_t at = from < 0 ? 0 : from + unit * 8;
      start_copy(unit_address<dim>(keys, row, unit), static_cast<const bf16*>(cache.keys) + at,
                 from >= 0);
      start_copy(unit_address<dim>(values, row, unit), static_cast<const bf16*>(cache.values) + at,
                 from >= 0);
    }
  };
  int tile = first_tile + split * share + warp;
  int64_t place = find(tile);
  for (int stage = 0; stage < kStages - 1; ++stage) {
    start_copies(place, stage);
    end_copy_group();
    place = find(tile + (stage + 1) * kWarps);
  }
  wait_for_copies<kStages - 1>();
  __syncthreads();
  uint32_t q[dim / 16][4];
  load_queries<dim>(q, queries);
  __syncthreads();  // every warp has them

  AttentionRows<dim> state;
  state.clear();
  const float scale = args.scale * kLog2E;
  for (int stage = 0; tile < last_tile; tile += kWarps, stage = (stage + 1) % kStages) {
    start_copies(place, (stage + kStages - 1) % kStages);
    end_copy_group();
    place = find(tile + kStages * kWarps);
    wait_for_copies<kStages - 1>();
    __syncwarp();  // every lane's copies are there
    const int key = tile * kKeys;
    bf16* const keys = pipeline + stage * 2 * kKeys * dim;
    state.template take<kKeys>(
        q, keys, keys + kKeys * dim, scale, key < first_key || key + kKeys > context,
        [&](int, int i) { return key + i >= first_key && key + i < context; });
    __syncwarp();  // nobody reads the stage that is filled next
  }
  wait_for_copies<0>();
  state.finish();

  // Each warp's rows in shared memory: outputs, then maxima, then sums.
  __syncthreads();
  auto* const all = reinterpret_cast<float*>(pipelines);
  float* const mine = all + warp * kPartFloats<dim>;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = lane / 4 + 8 * r;
    if (row >= rows) continue;
#pragma unroll
    for (int d = 0; d < dim / 8; ++d) {
      mine[row * dim + d * 8 + lane % 4 * 2] = state.output[d][2 * r];
      mine[row * dim + d * 8 + lane % 4 * 2 + 1] = state.output[d][2 * r + 1];
    }
    if (lane % 4 == 0) {
      mine[kRows * dim + row] = state.largest[r];
      mine[kRows * (dim + 1) + row] = state.sum[r];
    }
  }
  __syncthreads();

  // Merges `count` parts and gives each element's output, and its row's maximum and sum, to `put`.
  const auto merge = [&](const float* from, int count, const auto& read, const auto& put) {
    for (int i = thread; i < rows * dim; i += kThreads) {
      const int row = i / dim;
      float largest = -INFINITY, sum = 0, output = 0;
      for (int p = 0; p < count; ++p)
        largest = fmaxf(largest, read(from + p * kPartFloats<dim> + kRows * dim + row));
      for (int p = 0; p < count; ++p) {
        const float* part = from + p * kPartFloats<dim>;
        const float fade = exp2(read(part + kRows * dim + row) - largest);
        sum += read(part + kRows * (dim + 1) + row) * fade;
        output += read(part + i) * fade;
      }
      put(i, row, output, largest, sum);
    }
  };
  const auto write_out = [&](int i, int, float output, float, float sum) {
    out[i] = from_float<bf16>(output / sum);
  };
  const auto from_shared = [](const float* p) { return *p; };
  if (used_splits == 1) return merge(all, kWarps, from_shared, write_out);

  const int pair = seq * static_cast<int>(gridDim.y) + static_cast<int>(blockIdx.y);
  float* const of_pair = parts.parts + int64_t{pair} * splits * kPartFloats<dim>;
  float* const part = of_pair + int64_t{split} * kPartFloats<dim>;
  merge(all, kWarps, from_shared, [&](int i, int row, float output, float largest, float sum) {
    part[i] = output;
    if (i % dim == 0) part[kRows * dim + row] = largest, part[kRows * (dim + 1) + row] = sum;
  });
  __threadfence();
  __syncthreads();
  auto* const last = reinterpret_cast<unsigned*>(all + kWarps * kPartFloats<dim>);
  if (thread == 0)
    *last = atomicAdd(&parts.ended[pair], 1u) + 1 == static_cast<unsigned>(used_splits);
  __syncthreads();
  if (!*last) return;
  __threadfence();
  // Other blocks' parts are in the second-level cache.
  merge(
      of_pair, used_splits, [](const float* p) { return __ldcg(p); }, write_out);
  if (thread == 0) parts.ended[pair] = 0;  // for the next launch
}

template <int dim>
void launch_decode(const AttentionArgs& args, const DeviceBatch& batch, const KVCache& cache,
                   const DecodeWorkspace& workspace, cudaStream_t stream) {
  const int group = args.num_heads / cache.num_kv_heads, row_tiles = (group + kRows - 1) / kRows;
  const int pairs = batch.num_decodes * cache.num_kv_heads * row_tiles;
  const dim3 grid(static_cast<unsigned>(std::clamp(workspace.blocks / pairs, 1, 64)),
                  static_cast<unsigned>(cache.num_kv_heads * row_tiles),
                  static_cast<unsigned>(batch.num_decodes));
  launch(decode_kernel<dim>, grid, kThreads, shared_bytes<dim>(), stream, args, batch, cache, group,
         row_tiles, Parts{workspace.parts, workspace.ended});
}

template <int dim>
void allow_shared() {
  check(cudaFuncSetAttribute(decode_kernel<dim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             shared_bytes<dim>()),
        "cudaFuncSetAttribute");
}

}  // namespace

void prepare_attention_decode() {
  allow_shared<64>(), allow_shared<80>(), allow_shared<96>(), allow_shared<128>();
}

int64_t DecodeWorkspace::part_floats(int64_t head_dim) { return kRows * (head_dim + 2); }

void attention_decode(const AttentionArgs& args, const DeviceBatch& batch, const KVCache& cache,
                      const DecodeWorkspace& workspace, cudaStream_t stream) {
  if (batch.num_decodes == 0) return;
  switch (cache.head_dim) {
    case 64:
      return launch_decode<64>(args, batch, cache, workspace, stream);
    case 80:
      return launch_decode<80>(args, batch, cache, workspace, stream);
    case 96:
      return launch_decode<96>(args, batch, cache, workspace, stream);
    case 128:
      return launch_decode<128>(args, batch, cache, workspace, stream);
  }
}

}  // namespace nanovllm::cuda
