#include "backend/load_plugin.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "backend/plugin.h"

namespace nanovllm {
namespace {

namespace fs = std::filesystem;

void* load(const std::string& file) { return ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL); }

void* load_plugin(const char* name, const char* variable, const std::string& made) {
  if (const char* file = std::getenv(variable)) {
    if (void* plugin = load(file)) return plugin;
    throw NoPlugin("the plugin of " + std::string(variable) + " cannot be loaded (" +
                   std::string(::dlerror()) + ")");
  }
  std::error_code error;
  const fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const fs::path& place : {folder, folder / "../lib/nano-vllm", folder / "../lib"}) {
    const fs::path file = place / name;
    if (folder.empty() || ::access(file.c_str(), F_OK) != 0) continue;
    if (void* plugin = load(file)) return plugin;
    throw NoPlugin("its plugin cannot be loaded (" + std::string(::dlerror()) + ")");
  }
  if (void* plugin = load(name)) return plugin;
  throw NoPlugin("its plugin " + std::string(name) + " is not in " + folder.string() + "; " + made);
}

}  // namespace

Plugin::Plugin(const char* file, const char* variable, const std::string& made)
    : library_(load_plugin(file, variable, made)) {
  const std::string_view version = find<const char*()>("nano_vllm_plugin_version")();
  if (version != kPluginVersion)
    throw NoPlugin("its plugin is of version " + std::string(version) + ", this program of " +
                   kPluginVersion + ": both must be built from the same source");
}

}  // namespace nanovllm
