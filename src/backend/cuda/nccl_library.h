// The part of NCCL that is used, found at run time: the backend loads where NCCL is missing, for
// one GPU needs none. Declarations of nccl.h (https://docs.nvidia.com/deeplearning/nccl), whose
// binary interface stays the same within version 2.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace nanovllm::cuda {

struct NcclCommOpaque;
using NcclComm = NcclCommOpaque*;

struct NcclId {
  char bytes[128];
};
enum NcclResult : int { kNcclSuccess = 0, kNcclInProgress = 7 };  // the others are errors
enum NcclType : int { kNcclFloat32 = 7, kNcclBFloat16 = 9 };

// ncclConfig_t of 2.14. Later versions have more behind it, and see by size and version that this
// has not.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef, version = 21400;
  int blocking = 0;  // no call waits for another rank
};

struct NcclLibrary {
  const char* (*GetErrorString)(NcclResult);
  NcclResult (*GetUniqueId)(NcclId*);
  NcclResult (*CommInitRankConfig)(NcclComm*, int size, NcclId, int rank, NcclConfig*);
  // Of the call before: kNcclInProgress until it has ended.
  NcclResult (*CommGetAsyncError)(NcclComm, NcclResult*);
  NcclResult (*CommAbort)(NcclComm);  // frees it, too
  NcclResult (*AllGather)(const void* from, void* to, size_t count, NcclType, NcclComm,
                          cudaStream_t);
  NcclResult (*Send)(const void*, size_t count, NcclType, int rank, NcclComm, cudaStream_t);
  NcclResult (*Recv)(void*, size_t count, NcclType, int rank, NcclComm, cudaStream_t);
  NcclResult (*GroupStart)();
  NcclResult (*GroupEnd)();
};

// Throws Error where there is no libnccl.so.2: beside the plugin, where the CUDA toolkit was when
// it was built, or where the system looks for libraries.
const NcclLibrary& load_nccl();

}  // namespace nanovllm::cuda
