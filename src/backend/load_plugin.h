// Plugin: a shared library that the program loads at run time, where it is wanted and there: a
// backend (backend/plugin.h), a way to other processes (parallel/mpi/plugin.h).
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace nanovllm {

// Why there is none, as the end of a sentence ("its plugin cannot be loaded: ...").
struct NoPlugin : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Plugin {
 public:
  // `file` beside the program, in ../lib/nano-vllm or ../lib, or where the system looks for
  // libraries; the environment's variable names another. It must have been built from this source
  // (kPluginVersion). `made` says when the build makes it. Throws NoPlugin.
  Plugin(const char* file, const char* variable, const std::string& made);

  template <typename Function>
  Function* find(const char* name) const {
    if (void* symbol = ::dlsym(library_, name)) return reinterpret_cast<Function*>(symbol);
    throw NoPlugin("its plugin is no plugin of nano-vllm (" + std::string(::dlerror()) + ")");
  }

 private:
  void* library_;  // never closed: what it is for lasts as long as the process
};

}  // namespace nanovllm
