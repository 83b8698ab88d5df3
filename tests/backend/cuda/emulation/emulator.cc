#include "emulator.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"

namespace emulation {
namespace {

constexpr int kLanes = 32;

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  int group;
};

struct Thread {
  Fiber fiber;
  std::deque<Copy> copies;  // started and not done
  int group = 0;            // that new copies belong to
  bool waited = false;      // for the kernel before
  State state = State::kDone;
  uint3 index = {};
};

struct Warp {
  alignas(16) Slot
      slots[2][kLanes];  // of this exchange and of the one before, which some lane may still read
  int parity = 0, arrived = 0;
  const char* operation = nullptr;
};

// A block as it runs.
struct Block {
  std::vector<std::unique_ptr<Thread>> threads;  // kept for the next block
  std::vector<std::unique_ptr<Warp>> warps;
  int num_threads = 0, arrived = 0;
  int current = -1;  // the thread that runs now
  bool overlaps = false;
  const std::function<void()>* body = nullptr;
  std::exception_ptr error;
  std::vector<std::max_align_t> shared;
  Order order = Order::kForward;
  std::mt19937 random{1};

  Thread& thread() { return *threads[current]; }
};

Block& block() {
  static thread_local Block b;
  return b;
}

// 0 .. n - 1 as the order has it.
std::vector<int> turns(Block& b, int n) {
  std::vector<int> all(n);
  std::iota(all.begin(), all.end(), 0);
  if (b.order == Order::kReverse) std::ranges::reverse(all);
  if (b.order == Order::kShuffled) std::ranges::shuffle(all, b.random);
  return all;
}

void thread_main() {
  Block& b = block();
  try {
    (*b.body)();
  } catch (...) {
    b.error = std::current_exception();
  }
  if (!b.error && !b.thread().copies.empty())
    b.error = std::make_exception_ptr(std::logic_error("emulation: a copy is not waited for"));
  if (!b.error && b.overlaps && !b.thread().waited)
    b.error = std::make_exception_ptr(
        std::logic_error("emulation: a thread did not wait for the kernel before"));
  b.thread().state = State::kDone;
  b.thread().fiber.suspend();
}

void wait(State state) {
  Thread& t = block().thread();
  t.state = state;
  t.fiber.suspend();
}

void wake(State from, int first, int count) {
  for (int i = first; i < first + count; ++i)
    if (block().threads[i]->state == from) block().threads[i]->state = State::kReady;
}

// Until every thread of the warp waits for the block or is done. False: there was nothing to do.
bool run_warp(Block& b, int warp) {
  bool any = false;
  for (bool again = true; again;) {
    again = false;
    for (const int lane : turns(b, kLanes)) {
      b.current = warp * kLanes + lane;
      if (b.thread().state != State::kReady) continue;
      any = again = true;
      threadIdx = b.thread().index;
      b.thread().fiber.resume();
      if (b.error) std::rethrow_exception(std::exchange(b.error, nullptr));
    }
  }
  return any;
}

void run_block(Block& b, dim3 size) {
  const int warps = b.num_threads / kLanes;
  b.arrived = 0;
  for (int i = 0; i < b.num_threads; ++i) {
    Thread& t = *b.threads[i];
    t.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    t.state = State::kReady;
    t.copies.clear();
    t.waited = false;
    t.fiber.start(thread_main);
  }
  for (int w = 0; w < warps; ++w) b.warps[w]->arrived = 0;
  std::ranges::fill(std::span(reinterpret_cast<std::byte*>(b.shared.data()),
                              b.shared.size() * sizeof(std::max_align_t)),
                    std::byte{0xff});  // not a number, as float and as bfloat16
  for (bool progress = true; progress;) {
    progress = false;
    for (const int w : turns(b, warps)) progress |= run_warp(b, w);
  }
  for (int i = 0; i < b.num_threads; ++i) {
    if (b.threads[i]->state == State::kDone) continue;
    const bool at_block = b.threads[i]->state == State::kAtBlock;
    fail(at_block ? "__syncthreads" : b.warps[i / kLanes]->operation,
         "is waited at by some threads, and others never come");
  }
}

}  // namespace

void fail(const char* what, const char* detail) {
  throw std::logic_error("emulation: " + std::string(what) + " " + detail);
}

void set_order(Order order, uint32_t seed) {
  block().order = order;
  block().random.seed(seed);
}

void note_wait_for_previous_kernel() { block().thread().waited = true; }

void run_grid(dim3 grid, dim3 size, size_t shared_bytes, bool overlaps,
              const std::function<void()>& thread) {
  Block& b = block();
  b.overlaps = overlaps;
  b.num_threads = static_cast<int>(size.x * size.y * size.z);
  if (b.num_threads == 0 || b.num_threads % kLanes != 0 || b.num_threads > 1024)
    fail("a block", "must have 32 to 1024 threads, a multiple of 32");
  while (static_cast<int>(b.threads.size()) < b.num_threads)
    b.threads.push_back(std::make_unique<Thread>());
  while (static_cast<int>(b.warps.size()) < b.num_threads / kLanes)
    b.warps.push_back(std::make_unique<Warp>());
  b.shared.resize((shared_bytes + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t));
  b.body = &thread;
  blockDim = size, gridDim = grid;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t at = b.order == Order::kReverse ? blocks - 1 - i : i;
    blockIdx = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                static_cast<unsigned>(at / grid.x / grid.y)};
    run_block(b, size);
  }
}

void sync_threads() {
  Block& b = block();
  if (++b.arrived < b.num_threads) return wait(State::kAtBlock);
  b.arrived = 0;
  wake(State::kAtBlock, 0, b.num_threads);
}

std::byte* dynamic_shared_memory() { return reinterpret_cast<std::byte*>(block().shared.data()); }

int lane() { return block().current % kLanes; }

const Slot* exchange(const char* operation, const void* mine, size_t bytes) {
  Block& b = block();
  const int index = b.current / kLanes;
  Warp& warp = *b.warps[index];
  if (warp.arrived > 0 && operation != warp.operation &&
      std::strcmp(operation, warp.operation) != 0)
    fail(operation, (std::string("meets ") + warp.operation + " in the same warp").c_str());
  if (bytes > sizeof(Slot)) fail(operation, "exchanges too much");
  warp.operation = operation;
  const Slot* slots = warp.slots[warp.parity];
  std::memcpy(warp.slots[warp.parity][b.current % kLanes], mine, bytes);
  if (++warp.arrived < kLanes) {
    wait(State::kAtWarp);
  } else {
    warp.arrived = 0;
    warp.parity ^= 1;
    wake(State::kAtWarp, index * kLanes, kLanes);
  }
  return slots;
}

void start_copy(void* to, const void* from, size_t bytes) {
  Thread& t = block().thread();
  t.copies.push_back({to, from, bytes, t.group});
}

void end_copy_group() { ++block().thread().group; }

void wait_for_copies(size_t groups_left) {
  Thread& t = block().thread();
  while (!t.copies.empty() && t.copies.front().group < t.group - static_cast<int>(groups_left)) {
    const Copy copy = t.copies.front();
    if (copy.from)
      std::memcpy(copy.to, copy.from, copy.bytes);
    else
      std::memset(copy.to, 0, copy.bytes);
    t.copies.pop_front();
  }
}

}  // namespace emulation
