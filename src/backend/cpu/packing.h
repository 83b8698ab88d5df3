// Packing: tensors of a checkpoint into the panels of panels.h, once at load.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/memory.h"
#include "backend/cpu/panels.h"
#include "backend/cpu/thread_pool.h"

namespace nanovllm {

// Rows of parts that are kept in the same way, in panels of their own. A weight whose parts differ
// (q and k in Q4_K, v in Q6_K) has several.
struct Segment {
  PanelKind kind = PanelKind::kF32;
  int64_t first_column = 0;  // of the weight's out_features
  int64_t columns = 0;
  int64_t offset = 0;  // bytes from the start of the weight's memory, a multiple of 64
  int64_t first_panel = 0;

  int64_t panels() const { return (columns + kPanelColumns - 1) / kPanelColumns; }
};

class CpuWeight : public Weight {
 public:
  std::vector<Segment> segments;
  Memory memory;
  WeightType type = WeightType::kAsStored;  // what was asked for

  int64_t num_panels() const { return segments.back().first_panel + segments.back().panels(); }
  const uint8_t* panels(const Segment& s) const {
    return reinterpret_cast<const uint8_t*>(memory.data()) + s.offset;
  }
};

// What packing the parts gives, without memory. Throws Error naming the part that cannot be packed:
// not a matrix, no rows or columns, an in_features unlike the others', data of another size than
// its shape says.
CpuWeight plan_weight(std::span<const TensorView> parts, WeightType type);

std::unique_ptr<CpuWeight> pack_weight(std::span<const TensorView> parts, WeightType type,
                                       ThreadPool& pool);

}  // namespace nanovllm
