// Plugins that the loader must refuse: of another version (STUB_VERSION), and one that has no
// device.
#include <cstdio>

#include "backend/plugin.h"

const char* nano_vllm_plugin_version() { return STUB_VERSION; }

nanovllm::Backend* nano_vllm_make_backend(const nanovllm::PluginOptions* options, char* error,
                                          size_t error_size) {
  std::snprintf(error, error_size, "there is no device %d", options->device);
  return nullptr;
}
