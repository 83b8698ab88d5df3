// MaskWorker: a thread that prepares matchers while the model's forward pass runs. What may come
// next depends on the tokens so far, not on the logits, so by the time the logits are there the
// masks are too.
//
// Used by the engine thread alone: start(), the forward pass, wait(). The thread is started by the
// first matcher there is.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "structured/grammar_matcher.h"

namespace nanovllm {

class MaskWorker {
 public:
  ~MaskWorker();
  void add(GrammarMatcher* matcher);  // null: nothing to do. It is left alone until wait() returns.
  void wait();

 private:
  void run();

  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::vector<GrammarMatcher*> left_;
  bool busy_ = false, ending_ = false;
  std::thread thread_;  // last: started and joined by the engine thread
};

}  // namespace nanovllm
