// What the shared library that joins ranks by MPI exports. The program does not link MPI: it loads
// libnano-vllm-mpi.so when mpirun has started it (model/ranks.h). As with backends
// (backend/plugin.h) both must be built from the same headers.
#pragma once

#include <cstddef>

#include "parallel/communicator.h"

extern "C" {
// kPluginVersion of the library.
const char* nano_vllm_plugin_version();
// This process's rank among those of mpirun, which all call this as often and in the same order;
// the caller owns and deletes it. Null if MPI cannot: then `error` [error_size] says why, as the
// end of a sentence. The first call starts MPI, which ends with the process: with MPI_Abort where
// the exit code is not 0, so that no rank outlives another's failure.
nanovllm::Communicator* nano_vllm_join_ranks(char* error, size_t error_size);
}
