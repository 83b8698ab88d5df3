// Fiber: a function with a stack of its own that can stop in the middle and be continued: one CUDA
// thread of a block under emulation. Fibers of one operating system thread; a fiber is reused for
// many functions.
#pragma once

#include <cstddef>

namespace emulation {

class Fiber {
 public:
  using Entry = void (*)();  // must end by a switch back that is never continued
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void start(Entry entry);  // resume() will begin at `entry`
  void resume();            // from the scheduler: runs until the fiber calls suspend()
  void suspend();           // from the fiber

 private:
  static constexpr size_t kStackBytes = 128 * 1024;
  char* stack_;
  void* own_ = nullptr;     // where to go on when resumed
  void* caller_ = nullptr;  // and when suspended
};

}  // namespace emulation
