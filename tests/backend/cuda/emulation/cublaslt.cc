// cuBLASLt's product under emulation.
#include "cublasLt.h"

#include "cuda_bf16.h"

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
  int transpose[2] = {CUBLAS_OP_N, CUBLAS_OP_N};
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  uint64_t rows, cols;
  int64_t ld;
  float at(const void* data, uint64_t row, uint64_t col) const {
    const uint64_t i = row + col * static_cast<uint64_t>(ld);
    return type == CUDA_R_32F ? static_cast<const float*>(data)[i]
                              : __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
  }
};
struct cublasLtMatmulPreferenceOpaque_t {};

const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "invalid value";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t,
                                        cudaDataType_t) {
  *desc = new cublasLtMatmulDescOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  if (bytes != sizeof(int)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&desc->transpose[attribute == CUBLASLT_MATMUL_DESC_TRANSB], value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t{type, rows, cols, ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}

// Nothing for matrices whose columns are not aligned to 16 bytes: the case that the backend has a
// kernel of its own for, and that cuBLASLt may refuse.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  const int64_t step = a->type == CUDA_R_32F ? 4 : 8;
  *found = 0;
  if (requested < 1 || a->ld % step != 0 || b->ld % step != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  results[0] = {{{1}}, 0, CUBLAS_STATUS_SUCCESS, 1};
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algo, void*, size_t,
                              cudaStream_t stream) {
  if (algo->data[0] != 1) return CUBLAS_STATUS_INVALID_VALUE;
  const auto la = *a_layout, lb = *b_layout, ld = *d_layout;
  const bool ta = desc->transpose[0] == CUBLAS_OP_T, tb = desc->transpose[1] == CUBLAS_OP_T;
  const float by = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  const uint64_t k = ta ? la.rows : la.cols;
  if ((ta ? la.cols : la.rows) != ld.rows || (tb ? lb.rows : lb.cols) != ld.cols ||
      (tb ? lb.cols : lb.rows) != k || (keep != 0 && c != d))
    return CUBLAS_STATUS_INVALID_VALUE;
  emulation::enqueue(stream, [=] {
    for (uint64_t col = 0; col < ld.cols; ++col) {
      for (uint64_t row = 0; row < ld.rows; ++row) {
        float sum = 0;
        for (uint64_t i = 0; i < k; ++i)
          sum += (ta ? la.at(a, i, row) : la.at(a, row, i)) *
                 (tb ? lb.at(b, col, i) : lb.at(b, i, col));
        sum *= by;
        if (keep != 0) sum += keep * ld.at(d, row, col);
        const uint64_t at = row + col * static_cast<uint64_t>(ld.ld);
        if (ld.type == CUDA_R_32F)
          static_cast<float*>(d)[at] = sum;
        else
          static_cast<__nv_bfloat16*>(d)[at] = __float2bfloat16_rn(sum);
      }
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}
