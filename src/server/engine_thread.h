// EngineThread: the one thread that calls the LLM. Everybody else posts tasks, which run between
// two steps in the order they came, so nothing waits longer than a step for the engine's attention,
// and the engine needs no lock. It sleeps when there is nothing to compute.
//
// Steps can be paused and taken one at a time, for looking at them; tasks run all the same.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "nanovllm/llm.h"

namespace nanovllm {

class EngineThread {
 public:
  using Task = std::function<void(LLM&)>;

  // llm outlives this, and is this thread's alone until the destructor returns. on_failure (may be
  // null) is called once on the thread if a step or a task throws, which only a defect or a lack of
  // memory does: the engine's state is then unknown and no further step or task is run.
  explicit EngineThread(LLM& llm, std::function<void(const std::string& why)> on_failure = nullptr);
  ~EngineThread();  // as stop()
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  void stop();  // waits for the step under way; what is still in the queue is dropped

  // Any thread. False if the engine was stopped or has failed: the task will not run.
  bool post(Task task);
  // As post, but the step under way is given up for it, and done again afterwards; if that costs no
  // more than a quarter of the time, so that steps go on whatever is posted.
  bool post_urgent(Task task);
  // As post, and waits for the task to be done. Not from the engine's own thread.
  bool run(const Task& task);

  // Called before each step, after the tasks, on the engine's thread; for what decides who is next.
  void before_step(Task hook);

  void set_paused(bool paused);
  bool paused() const;
  void step_once();  // while paused: one more step
  bool failed() const;

 private:
  void loop();
  void fail(const std::string& why);

  LLM& llm_;
  const std::function<void(const std::string&)> on_failure_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Task> tasks_;
  Task before_step_;
  std::atomic<bool> urgent_ = false;
  bool stop_ = false, paused_ = false, failed_ = false;
  int64_t steps_wanted_ = 0;  // while paused
  std::thread thread_;
};

}  // namespace nanovllm
