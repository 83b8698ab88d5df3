// What a shared library that brings a backend exports. One program serves machines with a GPU and
// without: it loads the library at run time (backend/make_backend.h), where it is wanted and there.
//
// The border is that of the C++ classes in src/backend, so program and library must be built from
// the same headers by the same compiler. kPluginVersion is the project's version and a hash of
// those headers; both sides compile it in, and the program refuses a library that has another.
#pragma once

#include <cstddef>

#include "backend/backend.h"

namespace nanovllm {

inline constexpr char kPluginVersion[] = NANO_VLLM_PLUGIN_VERSION;

struct PluginOptions {
  int device = 0;              // which of those that are visible to the process
  bool enforce_eager = false;  // no pass is recorded
};

}  // namespace nanovllm

extern "C" {
// kPluginVersion of the library. Touches no device.
const char* nano_vllm_plugin_version();
// A backend, which the caller owns and deletes before the process ends; the library is never
// unloaded. Null if there is no device that it can use: then `error` [error_size] says why, as the
// end of a sentence ("no CUDA device was found: ..."), and no exception leaves it.
nanovllm::Backend* nano_vllm_make_backend(const nanovllm::PluginOptions* options, char* error,
                                          size_t error_size);
}
