#include "backend/cuda/matmul.h"

#include "backend/cuda/check.h"

namespace nanovllm::cuda {
namespace {

cudaDataType_t data_type(Element e) { return e == Element::kFloat32 ? CUDA_R_32F : CUDA_R_16BF; }

}  // namespace

// Column-major, as cuBLAS has it, the row-major out [rows, out] is a matrix [out, rows]: w
// transposed times x.
struct Matmul::Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};

  ~Plan() {
    if (product) cublasLtMatmulDescDestroy(product);
    for (const auto layout : {w, x, out})
      if (layout) cublasLtMatrixLayoutDestroy(layout);
  }
};

Matmul::Matmul() {
  check(cublasLtCreate(&handle_), "cublasLtCreate");
  try {
    workspace_ = DeviceBuffer(kWorkspaceBytes);
  } catch (...) {
    cublasLtDestroy(handle_);
    throw;
  }
}

Matmul::~Matmul() {
  plans_.clear();
  cublasLtDestroy(handle_);
}

Matmul::Plan* Matmul::plan(const Shape& shape) {
  if (const auto it = plans_.find(shape); it != plans_.end()) return it->second.get();
  const auto [in, out, rows, out_stride, type, out_type] = shape;
  auto plan = std::make_unique<Plan>();
  check(cublasLtMatmulDescCreate(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "cublasLtMatmulDescCreate");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check(cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                       sizeof transposed),
        "cublasLtMatmulDescSetAttribute");
  const auto layout = [](cublasLtMatrixLayout_t* l, Element e, int64_t r, int64_t c, int64_t ld) {
    check(cublasLtMatrixLayoutCreate(l, data_type(e), static_cast<uint64_t>(r),
                                     static_cast<uint64_t>(c), ld),
          "cublasLtMatrixLayoutCreate");
  };
  layout(&plan->w, type, in, out, in);
  layout(&plan->x, type, in, rows, in);
  layout(&plan->out, out_type, out, rows, out_stride);

  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const uint64_t workspace = kWorkspaceBytes;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                       &workspace, sizeof workspace);
  cublasLtMatmulHeuristicResult_t best = {};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, plan->product, plan->w, plan->x, plan->out, plan->out, preference, 1, &best, &found);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED)
    check(status, "cublasLtMatmulAlgoGetHeuristic");
  if (found == 0)
    plan = nullptr;
  else
    plan->algorithm = best.algo;
  return plans_.emplace(shape, std::move(plan)).first->second.get();
}

void Matmul::linear(const void* w, int64_t in, int64_t out_features, const void* x, int64_t rows,
                    Element type, Element out_type, void* out, int64_t out_stride,
                    cudaStream_t stream) {
  if (rows == 0) return;
  const Plan* p = plan({in, out_features, rows, out_stride, type, out_type});
  if (!p)
    return plain_linear(type, w, x, rows, in, out_features, out_type, out, out_stride, stream);
  const float one = 1, zero = 0;
  check(cublasLtMatmul(handle_, p->product, &one, w, p->w, x, p->x, &zero, out, p->out, out, p->out,
                       &p->algorithm, workspace_.as<void>(), kWorkspaceBytes, stream),
        "cublasLtMatmul");
}

}  // namespace nanovllm::cuda
