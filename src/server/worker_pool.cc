#include "server/worker_pool.h"

#include <utility>

namespace nanovllm {

WorkerPool::WorkerPool(int num_threads) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { loop(); });
}

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::post(size_t lane, std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    lanes_[lane].push_back(std::move(job));
  }
  wake_.notify_one();
}

void WorkerPool::loop() {
  while (true) {
    std::function<void()> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !lanes_.empty(); });
      if (stop_) return;
      auto lane = lanes_.upper_bound(last_lane_);
      if (lane == lanes_.end()) lane = lanes_.begin();
      last_lane_ = lane->first;
      job = std::move(lane->second.front());
      lane->second.pop_front();
      if (lane->second.empty()) lanes_.erase(lane);
    }
    job();
  }
}

}  // namespace nanovllm
