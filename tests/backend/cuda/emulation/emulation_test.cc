// The emulation itself: that it shows the mistakes it is for, and that the backend's kernels do not
// depend on the order in which a GPU's threads happen to run. Under emulation only.
#include <stdexcept>

#include "../cuda_model.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/memory.h"
#include "model/random_checkpoint.h"

namespace nanovllm {
namespace {

using emulation::Order;

// Puts an order for the life of this.
struct InOrder {
  explicit InOrder(Order order, uint32_t seed = 1) { emulation::set_order(order, seed); }
  ~InOrder() { emulation::set_order(Order::kForward); }
};

// out[i] = in[threads - 1 - i], by way of shared memory, with a barrier between or not.
template <bool barrier>
void reverse_kernel(const int* in, int* out) {
  cuda::wait_for_previous_kernel();
  int* const shared = cuda::dynamic_shared<int>();
  shared[threadIdx.x] = in[threadIdx.x];
  if constexpr (barrier) __syncthreads();
  out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

template <typename Kernel>
std::vector<int> reversed(Kernel kernel) {
  const int threads = 96;
  cuda::Stream stream;
  cuda::DeviceBuffer in(threads * 4), out(threads * 4);
  std::vector<int> values(threads);
  for (int i = 0; i < threads; ++i) values[i] = i;
  cuda::check(cudaMemcpy(in.as<int>(), values.data(), threads * 4, cudaMemcpyHostToDevice), "copy");
  cuda::launch(kernel, 1, threads, threads * 4, stream.get(), in.as<int>(), out.as<int>());
  stream.synchronize();
  cuda::check(cudaMemcpy(values.data(), out.as<int>(), threads * 4, cudaMemcpyDeviceToHost),
              "copy");
  return values;
}

TEST(Emulation, ShowsAMissingBarrier) {
  std::vector<int> want(96);
  for (int i = 0; i < 96; ++i) want[i] = 95 - i;
  for (const Order order : {Order::kForward, Order::kReverse, Order::kShuffled}) {
    const InOrder in_order(order);
    EXPECT_EQ(reversed(reverse_kernel<true>), want);
    EXPECT_NE(reversed(reverse_kernel<false>), want);
  }
}

void run(void (*kernel)(), int threads = 64) {
  cuda::Stream stream;
  cuda::launch(kernel, 1, threads, 1024, stream.get());
  stream.synchronize();
}
std::string error_of(void (*kernel)()) {
  try {
    run(kernel);
    return "";
  } catch (const std::logic_error& e) {
    return e.what();
  }
}

TEST(Emulation, RefusesWhatWouldHang) {
  EXPECT_EQ(error_of([] {
              cuda::wait_for_previous_kernel();
              if (threadIdx.x < 60) __syncthreads();
            }),
            "emulation: __syncthreads is waited at by some threads, and others never come");
  EXPECT_EQ(error_of([] {
              cuda::wait_for_previous_kernel();
              if (threadIdx.x != 3) __shfl_xor_sync(cuda::kAllLanes, 1, 1);
            }),
            "emulation: __shfl_xor_sync is waited at by some threads, and others never come");
  EXPECT_EQ(error_of([] {
              cuda::wait_for_previous_kernel();
              if (threadIdx.x % 2)
                __syncwarp();
              else
                __ballot_sync(cuda::kAllLanes, 1);
            }),
            "emulation: __syncwarp meets __ballot_sync in the same warp");
  EXPECT_EQ(error_of([] {}), "emulation: a thread did not wait for the kernel before");
  EXPECT_EQ(error_of([] { cuda::wait_for_previous_kernel(); }), "");  // and goes on
  EXPECT_THROW(run([] {}, 48), std::logic_error);
}

TEST(Emulation, ShowsCopiesThatAreNotWaitedFor) {
  EXPECT_EQ(error_of([] {
              cuda::wait_for_previous_kernel();
              cuda::start_copy(cuda::dynamic_shared<cuda::bf16>() + threadIdx.x * 8, nullptr,
                               false);
              cuda::end_copy_group();
            }),
            "emulation: a copy is not waited for");
  // Of two groups, one is waited for.
  EXPECT_EQ(error_of([] {
              cuda::wait_for_previous_kernel();
              int* const shared = cuda::dynamic_shared<int>();
              for (int i = 0; i < 2; ++i) {
                if (threadIdx.x == 0) cuda::start_copy(shared + 4 * i, nullptr, false);
                cuda::end_copy_group();
              }
              cuda::wait_for_copies<1>();
              if (threadIdx.x == 0 && (shared[0] != 0 || shared[4] == 0))
                emulation::fail("a copy", "is done at the wrong time");
              cuda::wait_for_copies<0>();
            }),
            "");
}

TEST(Emulation, KnowsTheLimitsOfALaunch) {
  cuda::Stream stream;
  EXPECT_THROW(cuda::launch(
                   +[] {}, dim3(1, 70000), 32, 0, stream.get()),
               Error);
  EXPECT_THROW(cuda::launch(
                   +[] {}, 1, 32, 100 * 1024, stream.get()),
               Error);
  EXPECT_THROW(cuda::launch(
                   +[] {}, 0, 32, 0, stream.get()),
               Error);
}

TEST(EmulationDeathTest, MemoryEndsWhereItEnds) {
  cuda::DeviceBuffer buffer(64);
  char* const p = buffer.as<char>();
  EXPECT_DEATH(p[64] = 1, "");
  cuda::DeviceBuffer* odd = new cuda::DeviceBuffer(10);
  odd->as<char>()[11] = 1;  // in what alignment leaves
  EXPECT_EXIT(delete odd, ::testing::KilledBySignal(SIGABRT), "wrote past the end");
}

TEST(EmulationDeathTest, TheHostHasNoBusinessInTheDevice) {
  cuda::DeviceBuffer buffer(64, true);
  EXPECT_EQ(*buffer.as<char>(), 0);
  emulation::protect_device_memory(true);
  EXPECT_DEATH(*buffer.as<volatile char>(), "");
  emulation::protect_device_memory(false);
}

// The same bits in every order of threads and blocks, and with the device's memory closed to the
// host. Prompts and decoding, tensor cores and not, quantized weights and not.
TEST(Emulation, TheModelDoesNotDependOnTheOrderOfThreads) {
  for (const auto& [head_dim, type] :
       {std::pair{int64_t{64}, WeightType::kAsStored}, std::pair{int64_t{20}, WeightType::kInt4}}) {
    const RandomCheckpoint checkpoint(
        {.layers = 1, .heads = 3, .kv_heads = 1, .head_dim = head_dim}, 3);
    const auto logits = [&, as = type] {
      Model model(checkpoint.folder(), make_cuda_backend(false), as);
      return decode_some(model, 2);
    };
    const std::vector<float> want = logits();
    for (const float x : want) ASSERT_TRUE(std::isfinite(x));
    {
      const InOrder in_order(Order::kReverse);
      EXPECT_TRUE(same_bits(logits(), want));
    }
    {
      const InOrder in_order(Order::kShuffled, 7);
      EXPECT_TRUE(same_bits(logits(), want));
    }
    emulation::protect_device_memory(true);
    EXPECT_TRUE(same_bits(logits(), want));
    emulation::protect_device_memory(false);
  }
}

// After the first steps neither the device's nor the host's pinned memory is asked for.
TEST(Emulation, ASteadyStepAllocatesNothingAndLaunchesOneGraph) {
  const RandomCheckpoint checkpoint({}, 4);
  Model model(checkpoint.folder(), make_cuda_backend(false), false);
  decode_some(model, 20);
  emulation::Counters& counters = emulation::counters();
  const emulation::Counters before = counters;
  decode_some(model, 20);
  EXPECT_EQ(counters.allocations - before.allocations, 3);  // a new cache, with what decoding needs
  EXPECT_EQ(counters.captures, before.captures);            // of sizes that were there before
  EXPECT_EQ(counters.graph_launches - before.graph_launches, 20);
}

}  // namespace
}  // namespace nanovllm
