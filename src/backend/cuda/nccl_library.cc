#include "backend/cuda/nccl_library.h"

#include <dlfcn.h>

#include <string>
#include <type_traits>

#include "nanovllm/error.h"

namespace nanovllm::cuda {

const NcclLibrary& load_nccl() {
  static const NcclLibrary library = [] {
    void* const file = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!file) throw Error("NCCL cannot be loaded, which several GPUs need", ::dlerror());
    const auto find = [&](auto& function, const char* name) {
      void* const symbol = ::dlsym(file, name);
      if (!symbol) throw Error("NCCL is too old", ::dlerror());
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
    };
    NcclLibrary l;
    find(l.GetErrorString, "ncclGetErrorString");
    find(l.GetUniqueId, "ncclGetUniqueId");
    find(l.CommInitRankConfig, "ncclCommInitRankConfig");
    find(l.CommGetAsyncError, "ncclCommGetAsyncError");
    find(l.CommAbort, "ncclCommAbort");
    find(l.AllGather, "ncclAllGather");
    find(l.Send, "ncclSend");
    find(l.Recv, "ncclRecv");
    find(l.GroupStart, "ncclGroupStart");
    find(l.GroupEnd, "ncclGroupEnd");
    return l;
  }();
  return library;
}

}  // namespace nanovllm::cuda
