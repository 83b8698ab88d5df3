#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {

Fiber::Fiber() {
  // The lowest page stays without access: a stack that overflows is a fault and no strange result.
  void* memory =
      mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, 4096, PROT_NONE);
  stack_ = static_cast<char*>(memory);
}

Fiber::~Fiber() { munmap(stack_, kStackBytes); }

#if defined(__x86_64__)

// Saves the registers that a call must keep (System V ABI) on the stack, and changes stacks.
// swapcontext() does the same and two system calls, which would be nearly all the time of an
// emulated shuffle.
extern "C" void nano_vllm_switch_stack(void** save, void* load);
asm(R"(
.text
.globl nano_vllm_switch_stack
.type nano_vllm_switch_stack, @function
nano_vllm_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size nano_vllm_switch_stack, .-nano_vllm_switch_stack
)");

void Fiber::start(Entry entry) {
  // As if `entry` had been called (a stack pointer of 16 n + 8 at its first instruction).
  auto* top = reinterpret_cast<void**>(stack_ + kStackBytes) - 2;
  std::memset(top - 6, 0, 8 * sizeof(void*));
  top[0] = reinterpret_cast<void*>(entry);
  own_ = top - 6;
}
void Fiber::resume() { nano_vllm_switch_stack(&caller_, own_); }
void Fiber::suspend() { nano_vllm_switch_stack(&own_, caller_); }

#else

void Fiber::start(Entry entry) {
  if (!own_) own_ = new ucontext_t, caller_ = new ucontext_t;  // kept as long as the process lives
  auto* context = static_cast<ucontext_t*>(own_);
  getcontext(context);
  context->uc_stack.ss_sp = stack_;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}
void Fiber::resume() {
  swapcontext(static_cast<ucontext_t*>(caller_), static_cast<ucontext_t*>(own_));
}
void Fiber::suspend() {
  swapcontext(static_cast<ucontext_t*>(own_), static_cast<ucontext_t*>(caller_));
}

#endif

}  // namespace emulation
