#include "parallel/mpi/plugin.h"

#include <mpi.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>

#include "parallel/mpi/mpi_communicator.h"

namespace {

// Other ranks get the time to print why they end, before mpirun kills them.
void end_mpi(int exit_code, void*) {
  if (exit_code == 0) {
    MPI_Finalize();
    return;
  }
  std::fflush(nullptr);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  MPI_Abort(MPI_COMM_WORLD, exit_code);
}

const char* start_mpi() {
  int started = 0, threads = 0;
  MPI_Initialized(&started);
  if (started) return nullptr;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &threads) != MPI_SUCCESS)
    return "MPI cannot start";
  on_exit(end_mpi, nullptr);
  return threads < MPI_THREAD_MULTIPLE ? "this MPI does not allow several threads" : nullptr;
}

}  // namespace

const char* nano_vllm_plugin_version() { return NANO_VLLM_PLUGIN_VERSION; }

nanovllm::Communicator* nano_vllm_join_ranks(char* error, size_t error_size) {
  try {
    if (const char* why = start_mpi()) {
      std::snprintf(error, error_size, "%s", why);
      return nullptr;
    }
    return nanovllm::MpiCommunicator::join().release();
  } catch (const std::exception& e) {
    std::snprintf(error, error_size, "%s", e.what());
    return nullptr;
  }
}
