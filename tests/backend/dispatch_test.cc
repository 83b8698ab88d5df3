// Which instruction set runs, and that the thread pool runs everything once.
#include <atomic>
#include <cstdlib>
#include <set>

#include "backend_test_util.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

class ForcedIsa : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const char* value = std::getenv("NANO_VLLM_FORCE_ISA")) saved_ = value;
  }
  void TearDown() override {
    saved_.empty() ? unsetenv("NANO_VLLM_FORCE_ISA")
                   : setenv("NANO_VLLM_FORCE_ISA", saved_.c_str(), 1);
  }
  std::string saved_;
};

TEST_F(ForcedIsa, RunsTheOneThatIsNamed) {
  for (const KernelTable* kernels : supported_kernels()) {
    setenv("NANO_VLLM_FORCE_ISA", kernels->name, 1);
    EXPECT_EQ(make_cpu_backend(1)->isa(), kernels->name);
  }
  unsetenv("NANO_VLLM_FORCE_ISA");
  EXPECT_EQ(make_cpu_backend(2)->isa(), supported_kernels().front()->name);
  EXPECT_EQ(make_cpu_backend(2)->name(),
            std::string("cpu (") + supported_kernels().front()->name + ", 2 threads)");
}

TEST_F(ForcedIsa, RefusesWhatThisMachineLacks) {
  std::set<std::string> present;
  for (const KernelTable* kernels : supported_kernels()) present.insert(kernels->name);
  EXPECT_TRUE(present.count("scalar"));
  for (const char* name : {"scalar", "avx2", "avxvnni", "avx512", "avx512-bf16", "neon", "sse9"}) {
    if (present.count(name)) continue;
    setenv("NANO_VLLM_FORCE_ISA", name, 1);
    try {
      make_cpu_backend(1);
      FAIL() << name << " was taken";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("scalar"), std::string::npos) << e.what();
    }
  }
}

TEST(Threads, RefusesLessThanOne) {
  EXPECT_THROW(make_cpu_backend(0), Error);
  EXPECT_THROW(make_cpu_backend(-3), Error);
}

TEST(Threads, EveryItemRunsOnceOnAThreadOfThePool) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.size(), threads);
    for (int64_t items = 0; items < 300; ++items) {
      std::vector<std::atomic<int>> count(static_cast<size_t>(items));
      std::vector<int64_t> plain(static_cast<size_t>(items));
      std::atomic<bool> in_range{true};
      pool.parallel_for(items, [&](int64_t item, int thread) {
        if (thread < 0 || thread >= threads) in_range = false;
        ++count[item];
        plain[item] = item + 1;  // must be visible after parallel_for
      });
      EXPECT_TRUE(in_range);
      for (int64_t i = 0; i < items; ++i) {
        ASSERT_EQ(count[i], 1);
        ASSERT_EQ(plain[i], i + 1);
      }
    }
  }
}

TEST(Threads, SleepingWorkersWakeAndSeveralPoolsLiveTogether) {
  ThreadPool a(2), b(3);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // longer than the workers spin
    std::atomic<int64_t> sum{0};
    for (ThreadPool* pool : {&a, &b})
      pool->parallel_for(100, [&](int64_t item, int) { sum += item; });
    EXPECT_EQ(sum, 2 * 4950);
  }
}

}  // namespace
}  // namespace nanovllm
