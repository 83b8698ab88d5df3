// Who is asked for a GPU gets one or is told why not, in one line; who leaves it open gets the CPU,
// and is told why if there is something to tell.

#include "backend/make_backend.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "backend/plugin.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

class MakeBackendTest : public testing::Test {
 protected:
  void TearDown() override { ::unsetenv("NANO_VLLM_CUDA_PLUGIN"); }
  static void use(const char* plugin) { ::setenv("NANO_VLLM_CUDA_PLUGIN", plugin, 1); }
  static BackendChoice make(const char* device, int which = 0) {
    return make_backend({.device = device, .threads = 1}, which);
  }
  // Why --device cuda is refused.
  static std::string refused(int which = 0) {
    try {
      make("cuda", which);
    } catch (const InvalidArgument& e) {
      EXPECT_EQ(e.where(), "--device");
      return e.reason();
    }
    return "accepted";
  }
};

TEST_F(MakeBackendTest, CpuAsksForNothing) {
  use("/nowhere.so");
  const BackendChoice choice = make("cpu");
  EXPECT_EQ(choice.device, "cpu");
  EXPECT_EQ(choice.note, "");
  EXPECT_EQ(choice.backend->device_memory().total_bytes, 0);
  EXPECT_EQ(choice.backend->make_sampler(), nullptr);
}

TEST_F(MakeBackendTest, WithoutADriverThereIsNoGpuToMiss) {
  if (::dlopen("libcuda.so.1", RTLD_NOW)) GTEST_SKIP() << "this machine has a driver";
  EXPECT_TRUE(refused().starts_with("is cuda, but this machine has no NVIDIA driver (libcuda.so.1"))
      << refused();
  EXPECT_EQ(make("auto").device, "cpu");
  EXPECT_EQ(make("auto").note, "");
}

TEST_F(MakeBackendTest, APluginThatIsNone) {
  use("/nowhere.so");
  EXPECT_TRUE(refused().starts_with(
      "is cuda, but the plugin of NANO_VLLM_CUDA_PLUGIN cannot be loaded (/nowhere.so: "))
      << refused();
  use("libm.so.6");
  EXPECT_TRUE(refused().starts_with("is cuda, but its plugin is no plugin of nano-vllm ("))
      << refused();
  EXPECT_EQ(make("auto").device, "cpu");
  EXPECT_EQ("is cuda, but " + make("auto").note, refused());
}

TEST_F(MakeBackendTest, APluginOfAnotherVersion) {
  use(NANO_VLLM_STUB_OTHER_VERSION);
  EXPECT_EQ(refused(), "is cuda, but its plugin is of version 0.0.1-old, this program of " +
                           std::string(kPluginVersion) +
                           ": both must be built from the same source");
}

TEST_F(MakeBackendTest, APluginWithoutADevice) {
  use(NANO_VLLM_STUB_WITHOUT_DEVICE);
  EXPECT_EQ(refused(), "is cuda, but there is no device 0");
  EXPECT_EQ(refused(3), "is cuda, but there is no device 3");
  EXPECT_EQ(make("auto").device, "cpu");
  EXPECT_EQ(make("auto").note, "there is no device 0");
}

}  // namespace
}  // namespace nanovllm
