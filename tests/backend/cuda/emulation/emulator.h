// The emulator of a GPU's threads: runs a kernel's grid on the processor, one block after the
// other, each CUDA thread a fiber, so that kernels are tested where there is no GPU. __syncthreads
// and the operations of a warp are rendezvous: who comes too early lets the others go on.
//
// Between two rendezvous the threads of a block run one after the other, in an order that a test
// can choose: a kernel that forgot a barrier gives other numbers (or the poison of shared memory)
// in another order. What it does not show: the hardware's memory model (a missing fence), bank
// conflicts, registers, and anything about time.
//
// Strict where hardware is lenient: a barrier that some thread of the block never reaches, lanes of
// a warp at two different operations and a block that is no multiple of 32 threads are errors
// (std::logic_error).
//
// The state of a block belongs to the operating system's thread that runs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  unsigned x, y, z;
};

inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace emulation {

// In which order blocks, warps and lanes take their turns.
enum class Order { kForward, kReverse, kShuffled };
void set_order(Order order, uint32_t seed = 1);

// Calls `thread` once for each thread of the grid. overlaps: with the kernel before it.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, bool overlaps,
              const std::function<void()>& thread);

// ---- for the code of a kernel
void sync_threads();
std::byte* dynamic_shared_memory();
int lane();

// All 32 lanes of a warp hand in the same number of bytes, at most 64, and read each other's: those
// of lane i lie at [i], until the warp's next exchange but one. `operation` names it, and must be
// the same for all lanes.
using Slot = std::byte[64];
const Slot* exchange(const char* operation, const void* mine, size_t bytes);

// The thread's copies (cp.async). `from` null: zeros. Done when the thread waits, as late as the
// hardware may do them.
void start_copy(void* to, const void* from, size_t bytes);
void end_copy_group();
void wait_for_copies(size_t groups_left);

// The thread has waited for the kernel before its own (griddepcontrol.wait). Each thread of a
// kernel that may overlap with the one before it must, or that is not known to have ended when it
// does.
void note_wait_for_previous_kernel();

[[noreturn]] void fail(const char* what, const char* detail);

}  // namespace emulation
