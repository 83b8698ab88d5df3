// rehearse: does something in a child process first, to see that it ends, and within its limits.
//
// Compiling a schema cannot be interrupted, and what a stranger wrote may take hours, all memory or
// the whole stack. So a fork of this process tries it and is killed when its time or memory is up;
// what it got through is then done here. The child has one thread, this one, and calls only what
// is given; weights and KV cache are not even mapped in it (see Memory). Whatever lock another
// thread held at the fork (of a memory allocator, say) stays locked in the child: one that is seen
// to wait is killed, and another one tries.
#pragma once

#include <functional>
#include <string>

namespace nanovllm {

struct RehearsalLimits {
  double seconds = 5;              // of processor time; on a busy machine it may take longer
  size_t bytes = size_t{1} << 30;  // on top of what the process has
};

// Empty if `action`, which waits for nobody, returned, else why it must not be done here: what it
// threw, or the limit it ran into. Any thread.
std::string rehearse(const std::function<void()>& action, const RehearsalLimits& limits);

}  // namespace nanovllm
