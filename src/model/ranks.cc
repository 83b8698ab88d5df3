#include "model/ranks.h"

#include <exception>
#include <system_error>

#include "model/worker.h"
#include "nanovllm/error.h"

namespace nanovllm {

Ranks::Ranks(const EngineConfig& config) {
  config.validate();
  const int size = static_cast<int>(config.tensor_parallel_size);
  if (size == 1) return;
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
