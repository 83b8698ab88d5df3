// What libnano-vllm-cuda.so exports (backend/plugin.h).
#include "backend/plugin.h"

#include <cstdio>
#include <exception>
#include <string>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_backend.h"

namespace nanovllm::cuda {
namespace {

void find_device(int wanted) {
  int driver = 0, devices = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    throw Error("no CUDA device was found", "this machine has no NVIDIA driver");
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess)
    throw Error("no CUDA device was found", cudaGetErrorString(error));
  if (wanted < 0 || wanted >= devices)
    throw Error("there is no CUDA device " + std::to_string(wanted),
                "this process sees " + std::to_string(devices));
}

}  // namespace
}  // namespace nanovllm::cuda

const char* nano_vllm_plugin_version() { return nanovllm::kPluginVersion; }

nanovllm::Backend* nano_vllm_make_backend(const nanovllm::PluginOptions* options, char* error,
                                          size_t error_size) {
  try {
    nanovllm::cuda::find_device(options->device);
    return new nanovllm::cuda::CudaBackend(*options);
  } catch (const std::exception& e) {
    std::snprintf(error, error_size, "%s", e.what());
    return nullptr;
  }
}
