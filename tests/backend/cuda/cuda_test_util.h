// What the tests of the CUDA backend share. They run under emulation on any machine, and unchanged
// on a GPU.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/check.h"
#include "backend/plugin.h"
#include "backend/random_tensor.h"
#include "formats/quantization.h"

namespace nanovllm {

inline std::unique_ptr<Backend> make_cuda_backend(bool eager) {
  char error[256] = "";
  const PluginOptions options = {.enforce_eager = eager};
  std::unique_ptr<Backend> backend(nano_vllm_make_backend(&options, error, sizeof error));
  if (!backend) throw Error("no backend", error);
  return backend;
}

// To the nearest value that activations can have.
inline std::vector<float> rounded(std::vector<float> values, bool float32) {
  if (!float32)
    for (float& v : values) v = bfloat16_to_float(float_to_bfloat16(v));
  return values;
}

// Activations: as floats on the host, float32 or bfloat16 on the device.
inline void write_activations(std::span<const float> values, bool float32, float* device) {
  std::vector<uint16_t> narrow;
  for (const float v : values) narrow.push_back(float_to_bfloat16(v));
  cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  cuda::check(cudaMemcpy(device,
                         float32 ? static_cast<const void*>(values.data())
                                 : static_cast<void*>(narrow.data()),
                         values.size() * (float32 ? 4 : 2), cudaMemcpyHostToDevice),
              "cudaMemcpy");
  cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}
inline std::vector<float> read_activations(const float* device, int64_t n, bool float32) {
  std::vector<float> values(static_cast<size_t>(n));
  std::vector<uint16_t> narrow(static_cast<size_t>(n));
  cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  cuda::check(
      cudaMemcpy(float32 ? static_cast<void*>(values.data()) : static_cast<void*>(narrow.data()),
                 device, values.size() * (float32 ? 4 : 2), cudaMemcpyDeviceToHost),
      "cudaMemcpy");
  if (!float32)
    for (size_t i = 0; i < values.size(); ++i) values[i] = bfloat16_to_float(narrow[i]);
  return values;
}

// A backend, and memory in it.
struct Device {
  explicit Device(bool float32_, bool eager = true)
      : float32(float32_), backend(make_cuda_backend(eager)) {
    // The first weight says which type the activations have.
    Random random(1);
    const RandomTensor tensor("first", DType::kF32, 8, 8, random);
    first = backend->pack({&tensor.view, 1}, weight_type());
    backend->reserve(kLimits);
  }
  static constexpr StepLimits kLimits = {.max_tokens = 1024,
                                         .max_seqs = 64,
                                         .max_blocks = 1024,
                                         .max_position = 1024,
                                         .vocab_size = 64};
  WeightType weight_type() const { return float32 ? WeightType::kFloat32 : WeightType::kAsStored; }

  float* constants(const std::vector<float>& values) {
    float* p = backend->allocate(std::ssize(values));
    backend->upload(values, p);
    return p;
  }
  float* activations(const std::vector<float>& values) {
    float* p = backend->allocate(std::ssize(values));
    write_activations(values, float32, p);
    return p;
  }
  float* space(int64_t n) { return activations(std::vector<float>(static_cast<size_t>(n), NAN)); }
  std::vector<float> read(const float* p, int64_t n) { return read_activations(p, n, float32); }
  std::vector<float> read_floats(const float* p, int64_t n) { return read_activations(p, n, true); }

  bool float32;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Weight> first;
};

// A batch of decodes: sequence s has its first token, in block s.
inline Batch one_token_each(int32_t seqs, int32_t block_size = 16) {
  Batch batch;
  batch.block_size = block_size;
  batch.block_table_stride = 1;
  batch.query_start = {0};
  for (int32_t s = 0; s < seqs; ++s) {
    batch.token_ids.push_back(s);
    batch.positions.push_back(0);
    batch.slot_mapping.push_back(s * block_size);
    batch.query_start.push_back(s + 1);
    batch.context_lens.push_back(1);
    batch.block_tables.push_back(s);
    batch.logits_rows.push_back(s);
  }
  return batch;
}

// Within `relative` of the value, and of 1.
inline void expect_near(const std::vector<float>& got, const std::vector<double>& want,
                        double relative, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], relative * std::max(1.0, std::fabs(want[i])))
        << what << ", element " << i;
}

}  // namespace nanovllm
