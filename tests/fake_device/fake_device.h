// A device that is none: the CPU's backend behind the contract of one that samples by itself, so
// that the engine's part of it is tested where there is no GPU. It computes when it is told to, but
// gives the tokens of a step to nobody before they are waited for; a batch may name them meanwhile.
// Whoever breaks the contract of StepSampler gets a std::logic_error.
//
// It is a plugin, loaded as a GPU's is, that takes what it needs from the program that loads it.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

namespace nanovllm {

// What tests may choose, before the device is made, and see.
struct FakeDeviceState {
  int64_t free_bytes = 0, total_bytes = 0;  // total 0: it has no memory of its own
  int64_t reserved_bytes = 0;
  int64_t max_logits_rows = 5;  // fewer than steps have
  std::vector<int32_t> recorded_sizes;

  int64_t steps = 0;                  // submitted
  int64_t overlapped = 0;             // of them, while the one before had not been waited for
  int64_t pending_ids = 0;            // tokens that a batch named before the host knew them
  std::vector<int32_t> first_passes;  // sequences of each pass before the first step
};

// As long as it lives --device cuda (and auto) is the fake device.
class FakeDevice {
 public:
  FakeDevice() {
    ::setenv("NANO_VLLM_CUDA_PLUGIN", NANO_VLLM_FAKE_DEVICE, 1);
    void* plugin = ::dlopen(NANO_VLLM_FAKE_DEVICE, RTLD_NOW | RTLD_LOCAL);
    state_ = reinterpret_cast<FakeDeviceState* (*)()>(::dlsym(plugin, "fake_device_state"))();
    *state_ = {};
  }
  ~FakeDevice() { ::unsetenv("NANO_VLLM_CUDA_PLUGIN"); }
  FakeDeviceState* operator->() const { return state_; }

 private:
  FakeDeviceState* state_;
};

}  // namespace nanovllm
