#include "server/engine_thread.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

namespace nanovllm {

EngineThread::EngineThread(LLM& llm, std::function<void(const std::string&)> on_failure)
    : llm_(llm), on_failure_(std::move(on_failure)), thread_([this] { loop(); }) {}

EngineThread::~EngineThread() { stop(); }

void EngineThread::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  tasks_.clear();
}

bool EngineThread::post(Task task) {
  {
    const std::lock_guard lock(mutex_);
    if (failed_ || stop_) return false;
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
  return true;
}

bool EngineThread::post_urgent(Task task) {
  {
    const std::lock_guard lock(mutex_);
    if (failed_ || stop_) return false;
    tasks_.push_back(std::move(task));
    urgent_ = true;
  }
  wake_.notify_one();
  return true;
}

bool EngineThread::run(const Task& task) {
  auto done = std::make_shared<std::promise<void>>();  // broken if the task is dropped
  std::future<void> result = done->get_future();
  if (!post([&task, done = std::move(done)](LLM& llm) {
        task(llm);
        done->set_value();
      }))
    return false;
  try {
    result.get();
    return true;
  } catch (const std::future_error&) {
    return false;
  }
}

void EngineThread::before_step(Task hook) {
  const std::lock_guard lock(mutex_);
  before_step_ = std::move(hook);
}

void EngineThread::set_paused(bool paused) {
  {
    const std::lock_guard lock(mutex_);
    paused_ = paused;
    steps_wanted_ = 0;
  }
  wake_.notify_one();
}

bool EngineThread::paused() const {
  const std::lock_guard lock(mutex_);
  return paused_;
}

void EngineThread::step_once() {
  {
    const std::lock_guard lock(mutex_);
    if (paused_) ++steps_wanted_;
  }
  wake_.notify_one();
}

bool EngineThread::failed() const {
  const std::lock_guard lock(mutex_);
  return failed_;
}

void EngineThread::loop() {
  std::vector<Task> tasks;
  Task hook;
  double credit = 0;  // seconds of work that may be thrown away: one for three that are not
  try {
    while (true) {
      bool step = false;
      {
        std::unique_lock lock(mutex_);
        const auto may_step = [this] {
          return (!paused_ || steps_wanted_ > 0) && llm_.has_unfinished_requests();
        };
        wake_.wait(lock, [&] { return stop_ || !tasks_.empty() || may_step(); });
        if (stop_) return;
        tasks.swap(tasks_);
        urgent_ = false;
        hook = before_step_;
        step = !paused_ || steps_wanted_ > 0;
      }
      for (Task& task : tasks) task(llm_);
      tasks.clear();
      if (!step) continue;
      if (hook) hook(llm_);
      if (!llm_.has_unfinished_requests()) continue;
      const auto start = std::chrono::steady_clock::now();
      const bool done = llm_.step(credit > 0 ? &urgent_ : nullptr);
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      credit = done ? std::min(2.0, credit + seconds / 3) : credit - seconds;
      const std::lock_guard lock(mutex_);
      if (done && paused_ && steps_wanted_ > 0) --steps_wanted_;
    }
  } catch (const std::exception& e) {
    fail(e.what());
  }
}

void EngineThread::fail(const std::string& why) {
  std::vector<Task> dropped;
  {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    dropped.swap(tasks_);
  }
  dropped.clear();  // whoever waits for them is told
  if (on_failure_) on_failure_(why);
}

}  // namespace nanovllm
