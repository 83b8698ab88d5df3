#include "structured/mask_worker.h"

namespace nanovllm {

MaskWorker::~MaskWorker() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void MaskWorker::add(GrammarMatcher* matcher) {
  if (!matcher) return;
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  {
    const std::lock_guard lock(mutex_);
    left_.push_back(matcher);
  }
  changed_.notify_all();
}

// Helps with what is left, instead of watching.
void MaskWorker::wait() {
  if (!thread_.joinable()) return;
  std::unique_lock lock(mutex_);
  while (!left_.empty()) {
    GrammarMatcher* matcher = left_.back();
    left_.pop_back();
    lock.unlock();
    matcher->prepare();
    lock.lock();
  }
  changed_.wait(lock, [this] { return !busy_; });
}

void MaskWorker::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !left_.empty(); });
    if (ending_) return;
    GrammarMatcher* matcher = left_.back();
    left_.pop_back();
    busy_ = true;
    lock.unlock();
    matcher->prepare();
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

}  // namespace nanovllm
