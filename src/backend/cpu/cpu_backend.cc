#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/dispatch.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

// Below this many floats a step is shared by no threads: waking one costs more than the work.
constexpr int64_t kSerialFloats = 8192;

}  // namespace

CpuBackend::CpuBackend(const KernelTable& kernels, int threads)
    : kernels_(kernels), pool_(threads) {
  grow_scratch(kLinearScratch);
}

std::string CpuBackend::name() const {
  return "cpu (" + isa() + ", " + std::to_string(pool_.size()) +
         (pool_.size() == 1 ? " thread)" : " threads)");
}

void CpuBackend::grow_scratch(int64_t floats_per_thread) {
  // A multiple of 1024 bytes and a little more: the threads' scratches share no cache line and
  // start with one, so that no load of a register from it needs two.
  const int64_t stride = (floats_per_thread + 255) / 256 * 256 + 32;
  if (stride <= scratch_stride_) return;
  scratch_stride_ = stride;
  scratch_ = Memory(stride * pool_.size() * 4, "scratch", false);
}

std::unique_ptr<Weight> CpuBackend::pack(std::span<const TensorView> parts, WeightType type) {
  return pack_weight(parts, type, pool_);
}

int64_t CpuBackend::packed_bytes(std::span<const TensorView> parts, WeightType type) const {
  return plan_weight(parts, type).bytes;
}

float* CpuBackend::allocate(int64_t num_floats) {
  if (num_floats < 0 || num_floats > INT64_MAX / 8)
    throw Error("activations", "have a size out of range");
  allocations_.emplace_back(std::max<int64_t>(num_floats, 16) * 4, "activations", false);
  return reinterpret_cast<float*>(allocations_.back().data());
}

template <typename F>
void CpuBackend::for_rows(int64_t rows, int64_t floats_per_row, const F& f) {
  if (rows * floats_per_row < kSerialFloats) {
    for (int64_t row = 0; row < rows; ++row) f(row);
    return;
  }
  const int64_t step =
      std::max<int64_t>(1, kSerialFloats / 2 / std::max<int64_t>(1, floats_per_row));
  pool_.parallel_for((rows + step - 1) / step, [&](int64_t item, int) {
    for (int64_t row = item * step; row < std::min(rows, (item + 1) * step); ++row) f(row);
  });
}

void CpuBackend::embed(const Weight& table, int64_t first_id, std::span<const int32_t> ids,
                       float* out) {
  const auto& weight = static_cast<const CpuWeight&>(table);
  const int64_t dim = weight.in_features;
  for_rows(static_cast<int64_t>(ids.size()), dim, [&](int64_t row) {
    const int64_t id = ids[row] - first_id;
    if (id < 0 || id >= weight.out_features) {
      std::fill_n(out + row * dim, dim, 0.0f);
      return;
    }
    const Segment* s = &weight.segments[0];
    for (const Segment& other : weight.segments)
      if (id >= other.first_column) s = &other;
    const int64_t column = id - s->first_column;
    kernels_.dequantize_column(
        s->kind, weight.panels(*s) + column / kPanelColumns * panel_bytes(s->kind, dim),
        static_cast<int>(column % kPanelColumns), dim, out + row * dim);
  });
}

void CpuBackend::rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t dim,
                          float* out) {
  for_rows(rows, dim, [&](int64_t row) {
    kernels_.rms_norm(x + row * dim, nullptr, weight, eps, dim, out + row * dim);
  });
}

void CpuBackend::add_rms_norm(float* residual, const float* x, const float* weight, float eps,
                              int64_t rows, int64_t dim, float* out) {
  for_rows(rows, dim, [&](int64_t row) {
    kernels_.rms_norm(x + row * dim, residual + row * dim, weight, eps, dim, out + row * dim);
  });
}

void CpuBackend::linear(const Weight& w, const float* bias, const float* x, int64_t rows,
                        float* out) {
  if (rows == 0) return;
  const auto& weight = static_cast<const CpuWeight&>(w);
  LinearArgs args = {};
  args.k = args.x_stride = weight.in_features;
  args.x = x;
  args.rows = rows;
  args.out_stride = weight.out_features;
  for (const Segment& s : weight.segments) {
    const LinearMode needed = mode(s.kind, weight.type);
    const int neighbours = most_neighbours(s.kind);
    const bool as_before = needed == args.mode && neighbours == args.most_neighbours;
    args.kind = s.kind;
    args.mode = needed;
    args.most_neighbours = neighbours;
    if (!args.prepared || !as_before) prepare(args);
    args.panels = weight.panels(s);
    args.n = s.columns;
    args.bias = bias ? bias + s.first_column : nullptr;
    args.out = out + s.first_column;
    // Items small enough to end together on all threads, large enough to reuse x.
    const int64_t panels = s.panels(), share = panels / (pool_.size() * int64_t{8});
    const int64_t step = rows == 1 ? std::clamp<int64_t>(share & ~1, 2, 8)
                                   : std::clamp<int64_t>(share, 1, kLinearPanels);
    pool_.parallel_for((panels + step - 1) / step, [&](int64_t item, int thread) {
      kernels_.linear(args, item * step, std::min(panels, (item + 1) * step), scratch(thread));
    });
  }
}

LinearMode CpuBackend::mode(PanelKind kind, WeightType type) const {
  if (kind == PanelKind::kBF16 && kernels_.has_pairs) return LinearMode::kPairs;
  if (type == WeightType::kFloat32 || panel_format(kind).bits == 0) return LinearMode::kFloat;
  const bool bytes = !takes_words(kind) || (takes_bytes(kind) && type == WeightType::kInt4);
  return bytes ? LinearMode::kBytes : LinearMode::kWords;
}

void CpuBackend::prepare(LinearArgs& args) {
  if (args.mode == LinearMode::kFloat && args.rows == 1) {
    args.prepared = const_cast<float*>(args.x);
    return;
  }
  const int64_t bytes = prepared_bytes(args.mode, args.rows, args.k);
  if (bytes > prepared_.size()) prepared_ = Memory(bytes, "activations", false);
  args.prepared = prepared_.data();
  const bool floats = args.mode == LinearMode::kFloat || args.mode == LinearMode::kPairs;
  const int64_t tiles =
      tile_count(args.rows, floats ? kernels_.tile_rows : kernels_.byte_tile_rows);
  if (args.rows * args.k < kSerialFloats) return kernels_.prepare(args, 0, tiles);
  pool_.parallel_for(tiles, [&](int64_t t, int) { kernels_.prepare(args, t, t + 1); });
}

void CpuBackend::silu_mul(const float* gate_up, int64_t rows, int64_t dim, float* out) {
  for_rows(rows, 3 * dim, [&](int64_t row) {
    kernels_.silu_mul(gate_up + row * 2 * dim, gate_up + row * 2 * dim + dim, dim, out + row * dim);
  });
}

void CpuBackend::gather_rows(const float* x, std::span<const int32_t> rows, int64_t dim,
                             float* out) {
  for (size_t r = 0; r < rows.size(); ++r)
    std::memcpy(out + static_cast<int64_t>(r) * dim, x + int64_t{rows[r]} * dim,
                static_cast<size_t>(dim) * 4);
}

std::unique_ptr<Backend> make_cpu_backend(int threads) {
  if (threads < 1)
    throw InvalidArgument("threads", "is " + std::to_string(threads) + "; at least 1 is needed");
  return std::make_unique<CpuBackend>(choose_kernels(), threads);
}

}  // namespace nanovllm
