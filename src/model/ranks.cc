#include "model/ranks.h"

#include <charconv>
#include <cstdlib>
#include <exception>
#include <string_view>
#include <system_error>

#include "backend/load_plugin.h"
#include "model/worker.h"
#include "nanovllm/error.h"
#include "nanovllm/llm.h"
#include "parallel/mpi/plugin.h"

namespace nanovllm {
namespace {

int number_of(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  if (!text) return otherwise;
  int number = otherwise;
  const std::string_view view = text;
  std::from_chars(view.data(), view.data() + view.size(), number);
  return number;
}

// What mpirun says to the processes that it starts.
int rank_of_process() { return number_of("OMPI_COMM_WORLD_RANK", 0); }
int number_of_processes() { return number_of("OMPI_COMM_WORLD_SIZE", 1); }

std::unique_ptr<Communicator> join_processes() {
  try {
    const Plugin plugin("libnano-vllm-mpi.so", "NANO_VLLM_MPI_PLUGIN",
                        "the build makes it where MPI is (Debian: libopenmpi-dev)");
    char error[1024] = "";
    auto* const join = plugin.find<decltype(nano_vllm_join_ranks)>("nano_vllm_join_ranks");
    std::unique_ptr<Communicator> ranks(join(error, sizeof error));
    if (!ranks) throw NoPlugin(error);
    return ranks;
  } catch (const NoPlugin& e) {
    throw Error("mpirun", std::string("has started this process, but ") + e.what());
  }
}

}  // namespace

void resolve_ranks(EngineConfig* config) {
  const int processes = number_of_processes();
  if (processes == 1) return;
  if (config->tensor_parallel_size != 1 && config->tensor_parallel_size != processes)
    throw InvalidArgument("--tensor-parallel-size",
                          "is " + std::to_string(config->tensor_parallel_size) +
                              ", but mpirun has started " + std::to_string(processes) + " ranks");
  config->tensor_parallel_size = processes;
}

bool is_worker_rank() { return rank_of_process() > 0; }

void work_as_rank(EngineConfig config) {
  resolve_ranks(&config);
  config.validate();
  const std::unique_ptr<Communicator> ranks = join_processes();
  run_worker(config, *ranks);
}

Ranks::Ranks(const EngineConfig& config) {
  config.validate();
  const int size = static_cast<int>(config.tensor_parallel_size);
  if (size == 1) return;
  if (number_of_processes() > 1) {
    process_ranks_ = join_processes();
    communicator_ = process_ranks_.get();
    return;
  }
  thread_ranks_ = std::make_unique<ThreadRanks>(size, threads_of_rank(config.threads, size));
  communicator_ = &thread_ranks_->rank(0);
  try {
    for (int r = 1; r < size; ++r)
      threads_.emplace_back([config, &ranks = thread_ranks_->rank(r)] {
        try {
          run_worker(config, ranks);
        } catch (const std::exception&) {  // run_worker() has told rank 0, which tells the user
        }
      });
  } catch (const std::system_error& e) {
    communicator_->fail("has ended");
    throw Error("rank " + std::to_string(threads_.size() + 1),
                std::string("no thread: ") + e.what());
  }
}

Ranks::~Ranks() {
  // Those that serve have been told by the ModelRunner's end; any other waits for a call that will
  // not come.
  communicator_->fail("has ended");
}

}  // namespace nanovllm
