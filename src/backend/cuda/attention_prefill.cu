// Attention of prompts: bound by arithmetic. A block takes 64 query rows of one sequence and kv
// head, a row being a token and a head of the group, and passes over their keys in tiles of 64:
// while the tensor cores work on one, the next is copied into the other half of a double buffer.
#include "backend/cuda/attention_mma.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32, kRows = 16 * kWarps, kKeys = 64;

// Shared memory: the queries, then two tiles of keys, then two of values; of each key where it
// lies, twice.
template <int dim>
constexpr size_t shared_bytes() {
  return sizeof(bf16) * dim * (kRows + 4 * kKeys) + sizeof(int64_t) * 2 * kKeys;
}
static_assert(shared_bytes<128>() <= 99 * 1024);  // what GPUs other than data centers' have

// The sequences from `first_seq` on, in tiles of kRows rows. The tiles of sequence s begin at
// start(s): that leaves room for all of them and sometimes for one more, and needs no list of
// tiles.
struct Tiles {
  int first_seq, group;
  __device__ __forceinline__ int start(const DeviceBatch& batch, int seq) const {
    const int tokens = batch.query_start[seq] - batch.query_start[first_seq];
    return tokens * group / kRows + seq - first_seq;
  }
};

template <int dim>
__global__ void __launch_bounds__(kThreads)
    prefill_kernel(AttentionArgs args, DeviceBatch batch, KVCache cache, Tiles tiles) {
  constexpr int units = dim / 8;
  bf16* const queries = dynamic_shared<bf16>();
  bf16* const keys = queries + kRows * dim;
  bf16* const values = keys + 2 * kKeys * dim;
  auto* const places = reinterpret_cast<int64_t*>(values + 2 * kKeys * dim);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int kv_head = static_cast<int>(blockIdx.y), group = tiles.group;

  wait_for_previous_kernel();
  let_next_kernel_start();
  // Later tiles have more keys before them and begin first.
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  int seq = tiles.first_seq;
  for (int low = seq, high = batch.num_seqs - 1; low <= high;) {
    const int middle = (low + high) / 2;
    if (tiles.start(batch, middle) <= tile)
      seq = middle, low = middle + 1;
    else
      high = middle - 1;
  }
  const int first_token = batch.query_start[seq],
            num_rows = (batch.query_start[seq + 1] - first_token) * group;
  const int first_row = (tile - tiles.start(batch, seq)) * kRows;
  if (first_row >= num_rows) return;
  const int rows = min(kRows, num_rows - first_row);
  const int context = batch.context_lens[seq];
  const int first_position = context - num_rows / group;  // of the sequence's first query
  const int window = args.window > 0 ? static_cast<int>(args.window) : context;

  // Keys that some row of the tile sees, from a multiple of kKeys on.
  const int tile_position = first_position + first_row / group;
  const int end = first_position + (first_row + rows - 1) / group + 1;
  const int begin = max(0, tile_position + 1 - window) / kKeys * kKeys;

  const int32_t* table = batch.block_tables + int64_t{seq} * *batch.table_stride;
  const auto find = [&](int first_key, int half) {  // where the keys of a tile lie
    const int key = first_key + thread;
    if (thread < kKeys && key < end)
      places[half * kKeys + thread] = cache_offset(
          cache, table[key / cache.block_size] * cache.block_size + key % cache.block_size,
          kv_head);
  };
  const auto start_copies = [&](int first_key, int half) {
    for (int i = thread; i < kKeys * units; i += kThreads) {
      const int row = i / units, unit = i % units;
      const bool wanted =
          first_key + row < end;  // values beyond must be zeros: weight 0 times a NaN is a NaN
      const int64_t from = wanted ? places[half * kKeys + row] + unit * 8 : 0;
      start_copy(unit_address<dim>(keys + half * kKeys * dim, row, unit),
                 static_cast<const bf16*>(cache.keys) + from, wanted);
      start_copy(unit_address<dim>(values + half * kKeys * dim, row, unit),
                 static_cast<const bf16*>(cache.values) + from, wanted);
    }
  };

  const int heads = args.num_heads + 2 * cache.num_kv_heads;
  const auto query_place = [&](int row) {  // token of the batch, head
    return int2{first_token + (first_row + row) / group,
                kv_head * group + (first_row + row) % group};
  };
  for (int i = thread; i < kRows * units; i += kThreads) {
    const int row = i / units, unit = i % units;
    const int2 place = query_place(min(row, rows - 1));
    start_copy(
        unit_address<dim>(queries, row, unit),
        static_cast<const bf16*>(args.qkv) + (int64_t{place.x} * heads + place.y) * dim + unit * 8,
        row < rows);
  }
  find(begin, 0);
  __syncthreads();
  start_copies(begin, 0);
  end_copy_group();

  AttentionRows<dim> state;
  state.clear();
  uint32_t q[dim / 16][4];
  const float scale = args.scale * kLog2E;
  const int position[2] = {first_position + (first_row + warp * 16 + lane / 4) / group,
                           first_position + (first_row + warp * 16 + lane / 4 + 8) / group};
  for (int key = begin, half = 0; key < end; key += kKeys, half ^= 1) {
    find(key + kKeys, half ^ 1);
    wait_for_copies<0>();
    __syncthreads();  // this tile is there, where the next one lies is known, and nobody reads the
                      // other half
    if (key + kKeys < end) start_copies(key + kKeys, half ^ 1);
    end_copy_group();
    if (key == begin) load_queries<dim>(q, queries + warp * 16 * dim);
    const bool masked = key + kKeys - 1 > tile_position || key <= end - 1 - window;
    state.template take<kKeys>(q, keys + half * kKeys * dim, values + half * kKeys * dim, scale,
                               masked, [&](int row, int i) {
                                 return key + i <= position[row] &&
                                        key + i > position[row] - window;
                               });
  }
  state.finish();

  bf16* const out = static_cast<bf16*>(args.out);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = warp * 16 + lane / 4 + 8 * r;
    if (row >= rows) continue;
    const int2 place = query_place(row);
    bf16* const to = out + (int64_t{place.x} * args.num_heads + place.y) * dim + lane % 4 * 2;
    const float scale_down = 1 / state.sum[r];
#pragma unroll
    for (int d = 0; d < dim / 8; ++d)
      *reinterpret_cast<uint32_t*>(to + d * 8) =
          pack(state.output[d][2 * r] * scale_down, state.output[d][2 * r + 1] * scale_down);
  }
}

template <int dim>
void launch_prefill(const AttentionArgs& args, const DeviceBatch& batch, const KVCache& cache,
                    cudaStream_t stream) {
  const int group = args.num_heads / cache.num_kv_heads;
  // As many tiles as Tiles::start() would give a sequence after the last.
  const int tokens = batch.num_tokens - batch.num_decodes;
  const int seqs = batch.num_seqs - batch.num_decodes;
  const dim3 grid(static_cast<unsigned>(tokens * group / kRows + seqs),
                  static_cast<unsigned>(cache.num_kv_heads));
  launch(prefill_kernel<dim>, grid, kThreads, shared_bytes<dim>(), stream, args, batch, cache,
         Tiles{batch.num_decodes, group});
}

template <int dim>
void allow_shared() {
  check(cudaFuncSetAttribute(prefill_kernel<dim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             shared_bytes<dim>()),
        "cudaFuncSetAttribute");
}

}  // namespace

void prepare_attention_prefill() {
  allow_shared<64>(), allow_shared<80>(), allow_shared<96>(), allow_shared<128>();
}

void attention_prefill(const AttentionArgs& args, const DeviceBatch& batch, const KVCache& cache,
                       cudaStream_t stream) {
  if (batch.num_decodes == batch.num_seqs) return;
  switch (cache.head_dim) {
    case 64:
      return launch_prefill<64>(args, batch, cache, stream);
    case 80:
      return launch_prefill<80>(args, batch, cache, stream);
    case 96:
      return launch_prefill<96>(args, batch, cache, stream);
    case 128:
      return launch_prefill<128>(args, batch, cache, stream);
  }
}

}  // namespace nanovllm::cuda
