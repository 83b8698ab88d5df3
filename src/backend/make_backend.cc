#include "backend/make_backend.h"

#include <dlfcn.h>

#include <cstdlib>

#include "backend/load_plugin.h"
#include "backend/plugin.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

// There is no GPU to miss.
struct NoDriver : NoPlugin {
  using NoPlugin::NoPlugin;
};

constexpr char kDriver[] = "libcuda.so.1", kPlugin[] = "libnano-vllm-cuda.so";
constexpr char kPluginVariable[] = "NANO_VLLM_CUDA_PLUGIN";

void require_driver() {
  if (!::dlopen(kDriver, RTLD_NOW | RTLD_LOCAL))  // and keep it
    throw NoDriver("this machine has no NVIDIA driver (" + std::string(::dlerror()) + ")");
}

std::unique_ptr<Backend> make_gpu_backend(const PluginOptions& options) {
  if (!std::getenv(kPluginVariable)) require_driver();
  const Plugin plugin(kPlugin, kPluginVariable, "the build makes it where the CUDA toolkit is");
  char error[1024] = "";
  auto* const make = plugin.find<decltype(nano_vllm_make_backend)>("nano_vllm_make_backend");
  std::unique_ptr<Backend> backend(make(&options, error, sizeof error));
  if (!backend) throw NoPlugin(error);
  return backend;
}

}  // namespace

BackendChoice make_backend(const EngineConfig& config, int device) {
  BackendChoice choice{.device = "cpu"};
  if (config.device != "cpu") {
    try {
      return {make_gpu_backend({.device = device, .enforce_eager = config.enforce_eager}), "cuda",
              ""};
    } catch (const NoPlugin& e) {
      if (config.device == "cuda")
        throw InvalidArgument("--device", std::string("is cuda, but ") + e.what());
      if (!dynamic_cast<const NoDriver*>(&e)) choice.note = e.what();
    }
  }
  choice.backend = make_cpu_backend(static_cast<int>(config.threads));
  return choice;
}

}  // namespace nanovllm
