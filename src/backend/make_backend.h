// make_backend: the backend that --device asks for. Those of GPUs are libraries of their own
// (backend/plugin.h), loaded only where they are asked for, or --device is auto and this machine
// has a driver.
#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"
#include "nanovllm/config.h"

namespace nanovllm {

struct BackendChoice {
  std::unique_ptr<Backend> backend;
  std::string device;  // cpu | cuda
  std::string note;    // why auto is not the GPU, on a machine that has a driver; else empty
};

// config.threads must be resolved. device: which of the GPUs that this process sees. Throws
// InvalidArgument for --device cuda where there is no plugin, no driver, no GPU, or a plugin of
// another version.
//
// The plugin is libnano-vllm-cuda.so beside the program, in ../lib/nano-vllm or ../lib, or where
// the system looks for libraries. NANO_VLLM_CUDA_PLUGIN names another file, which is taken to need
// no driver unless it says so itself.
BackendChoice make_backend(const EngineConfig& config, int device = 0);

}  // namespace nanovllm
