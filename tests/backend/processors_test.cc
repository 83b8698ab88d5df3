// Topology and quotas from made-up /sys and /proc folders.
#include "backend/cpu/processors.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace nanovllm {
namespace {

namespace fs = std::filesystem;

class ProcessorsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "nano-vllm-processors-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text << "\n";
  }
  void siblings(int cpu, const std::string& list, const char* file = "core_cpus_list") {
    write("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/" + file, list);
  }
  Processors read(const std::vector<int>& allowed = {0, 1, 2, 3}) const {
    return read_processors(root_, allowed);
  }
  std::string root_;
};

using Cores = std::vector<std::vector<int>>;

TEST_F(ProcessorsTest, WithoutFilesEveryProcessorIsACore) {
  const Processors p = read({0, 3});
  EXPECT_EQ(p.cores, (Cores{{0}, {3}}));
  EXPECT_EQ(p.num_logical(), 2);
  EXPECT_EQ(p.default_threads(), 2);
}

TEST_F(ProcessorsTest, SiblingsShareACore) {
  siblings(0, "0,2"), siblings(1, "1,3"), siblings(2, "0,2"), siblings(3, "1,3");
  EXPECT_EQ(read().cores, (Cores{{0, 2}, {1, 3}}));
  EXPECT_EQ(read().num_logical(), 4);
  EXPECT_EQ(read().default_threads(), 2);
  EXPECT_EQ(read({1, 2, 3}).cores, (Cores{{1, 3}, {2}}));  // the affinity mask leaves these
  EXPECT_EQ(read({3}).default_threads(), 1);
}

TEST_F(ProcessorsTest, OlderKernelsNameTheFileOtherwise) {
  for (const int cpu : {0, 1, 2, 3}) siblings(cpu, cpu < 2 ? "0-1" : "2-3", "thread_siblings_list");
  EXPECT_EQ(read().cores, (Cores{{0, 1}, {2, 3}}));
}

TEST_F(ProcessorsTest, QuotaOfVersion2IsRoundedUp) {
  write("/proc/self/cgroup", "0::/user/app");
  write("/sys/fs/cgroup/user/app/cpu.max", "150000 100000");
  EXPECT_DOUBLE_EQ(read().quota, 1.5);
  EXPECT_EQ(read().default_threads(), 2);
  write("/sys/fs/cgroup/user/app/cpu.max", "max 100000");
  EXPECT_EQ(read().default_threads(), 4);
  write("/sys/fs/cgroup/user/app/cpu.max", "1000 100000");
  EXPECT_EQ(read().default_threads(), 1);
}

TEST_F(ProcessorsTest, ParentsAndContainersLimitToo) {
  write("/proc/self/cgroup", "0::/user/app");
  write("/sys/fs/cgroup/user/app/cpu.max", "max 100000");
  write("/sys/fs/cgroup/user/cpu.max", "300000 100000");
  EXPECT_EQ(read().default_threads(), 3);
  // A container's own group is the root of the mount; the host's path is not to be seen there.
  write("/proc/self/cgroup", "0::/docker/0123");
  write("/sys/fs/cgroup/cpu.max", "200000 100000");
  EXPECT_EQ(read().default_threads(), 2);
}

TEST_F(ProcessorsTest, QuotaOfVersion1) {
  write("/proc/self/cgroup", "9:name=systemd:/\n4:cpuset:/\n3:cpu,cpuacct:/box\n0::/");
  EXPECT_EQ(read().default_threads(), 4);
  for (const char* mount : {"cpu", "cpu,cpuacct"}) {
    const std::string box = std::string("/sys/fs/cgroup/") + mount + "/box/";
    write(box + "cpu.cfs_quota_us", "-1");
    write(box + "cpu.cfs_period_us", "50000");
    EXPECT_EQ(read().default_threads(), 4);
    write(box + "cpu.cfs_quota_us", "110000");
    EXPECT_DOUBLE_EQ(read().quota, 2.2);
    EXPECT_EQ(read().default_threads(), 3);
    fs::remove_all(root_ + "/sys/fs/cgroup");
  }
}

TEST_F(ProcessorsTest, NonsenseIsNoLimit) {
  write("/proc/self/cgroup", "nonsense\n::\n0::\n0::no-slash\n1:cpu:");
  write("/sys/fs/cgroup/cpu.max", "fast please");
  write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000");
  write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "0");
  EXPECT_EQ(read().default_threads(), 4);
}

TEST(Processors, OfThisMachine) {
  const Processors p = available_processors();
  EXPECT_GE(p.default_threads(), 1);
  EXPECT_LE(p.default_threads(), p.num_logical());
}

}  // namespace
}  // namespace nanovllm
