#include "backend/make_backend.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string_view>

#include "backend/plugin.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

namespace fs = std::filesystem;

constexpr char kDriver[] = "libcuda.so.1", kPlugin[] = "libnano-vllm-cuda.so";

// Why there is no GPU, as the end of a sentence.
struct NoDevice : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct NoDriver : NoDevice {  // then there is none to miss
  using NoDevice::NoDevice;
};

// Never closed: what it is for lasts as long as the process.
void* load(const std::string& file) { return ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL); }

void require_driver() {
  if (!load(kDriver))
    throw NoDriver("this machine has no NVIDIA driver (" + std::string(::dlerror()) + ")");
}

void* load_plugin() {
  if (const char* file = std::getenv("NANO_VLLM_CUDA_PLUGIN")) {
    if (void* plugin = load(file)) return plugin;
    throw NoDevice("the plugin of NANO_VLLM_CUDA_PLUGIN cannot be loaded (" +
                   std::string(::dlerror()) + ")");
  }
  require_driver();
  std::error_code error;
  const fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const fs::path& place : {folder, folder / "../lib/nano-vllm", folder / "../lib"}) {
    const fs::path file = place / kPlugin;
    if (folder.empty() || ::access(file.c_str(), F_OK) != 0) continue;
    if (void* plugin = load(file)) return plugin;
    throw NoDevice("its plugin cannot be loaded (" + std::string(::dlerror()) + ")");
  }
  if (void* plugin = load(kPlugin)) return plugin;
  throw NoDevice("its plugin " + std::string(kPlugin) + " is not in " + folder.string() +
                 "; the build makes it where the CUDA toolkit is");
}

template <typename Function>
Function* find(void* plugin, const char* name) {
  if (void* symbol = ::dlsym(plugin, name)) return reinterpret_cast<Function*>(symbol);
  throw NoDevice("its plugin is no plugin of nano-vllm (" + std::string(::dlerror()) + ")");
}

std::unique_ptr<Backend> make_gpu_backend(const PluginOptions& options) {
  void* const plugin = load_plugin();
  const char* const version =
      find<decltype(nano_vllm_plugin_version)>(plugin, "nano_vllm_plugin_version")();
  if (std::string_view(version) != kPluginVersion)
    throw NoDevice("its plugin is of version " + std::string(version) + ", this program of " +
                   kPluginVersion + ": both must be built from the same source");
  char error[1024] = "";
  auto* const make = find<decltype(nano_vllm_make_backend)>(plugin, "nano_vllm_make_backend");
  std::unique_ptr<Backend> backend(make(&options, error, sizeof error));
  if (!backend) throw NoDevice(error);
  return backend;
}

}  // namespace

BackendChoice make_backend(const EngineConfig& config, int device) {
  BackendChoice choice{.device = "cpu"};
  if (config.device != "cpu") {
    try {
      return {make_gpu_backend({.device = device, .enforce_eager = config.enforce_eager}), "cuda",
              ""};
    } catch (const NoDevice& e) {
      if (config.device == "cuda")
        throw InvalidArgument("--device", std::string("is cuda, but ") + e.what());
      if (!dynamic_cast<const NoDriver*>(&e)) choice.note = e.what();
    }
  }
  choice.backend = make_cpu_backend(static_cast<int>(config.threads));
  return choice;
}

}  // namespace nanovllm
