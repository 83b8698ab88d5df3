// WorkerPool: a few threads for what would hold up the I/O thread or the engine: parsing bodies,
// rendering templates, tokenizing, compiling grammars. The jobs of a lane start in the order they
// came.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace nanovllm {

class WorkerPool {
 public:
  explicit WorkerPool(int num_threads);
  ~WorkerPool();  // waits for the jobs under way; those still queued are dropped
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Any thread; a job does not throw. Each lane is somebody's: those with jobs take turns.
  void post(size_t lane, std::function<void()> job);

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<size_t, std::deque<std::function<void()>>> lanes_;  // none of them empty
  size_t last_lane_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace nanovllm
