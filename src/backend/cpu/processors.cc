#include "backend/cpu/processors.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace nanovllm {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Processors that one cgroup allows. v2 has "quota period" or "max period" in one file, v1 two
// files and a quota of -1.
double quota_of_folder(const std::string& folder, bool v2) {
  const std::string text = v2 ? first_line(folder + "/cpu.max")
                              : first_line(folder + "/cpu.cfs_quota_us") + " " +
                                    first_line(folder + "/cpu.cfs_period_us");
  std::istringstream numbers(text);
  double quota = 0, period = 0;
  if (!(numbers >> quota >> period) || quota <= 0 || period <= 0) return kNoLimit;
  return quota / period;
}

// A group's parents limit it, too. Inside a container its path may not be visible; the container's
// own group is then the root of what is mounted.
double quota_of_path(const std::string& mount, std::string path, bool v2) {
  double quota = kNoLimit;
  while (true) {
    quota = std::min(quota, quota_of_folder(mount + path, v2));
    const size_t slash = path.rfind('/');
    if (path.empty() || slash == std::string::npos) return quota;
    path.resize(slash);
  }
}

double cgroup_quota(const std::string& root) {
  const std::string mounts = root + "/sys/fs/cgroup";
  double quota = kNoLimit;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "4:cpu,cpuacct:/path"; v2: "0::/path"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      for (const char* mount : {"", "/unified"})
        quota = std::min(quota, quota_of_path(mounts + mount, path, true));
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      for (const std::string& mount : {std::string("cpu"), controllers})
        quota = std::min(quota, quota_of_path(mounts + "/" + mount, path, false));
    }
  }
  return quota;
}

std::vector<int> allowed_processors() {
  std::vector<int> allowed;
#ifdef __linux__
  constexpr int kMost = 8192;
  if (cpu_set_t* set = CPU_ALLOC(kMost)) {
    const size_t size = CPU_ALLOC_SIZE(kMost);
    if (sched_getaffinity(0, size, set) == 0)
      for (int cpu = 0; cpu < kMost; ++cpu)
        if (CPU_ISSET_S(cpu, size, set)) allowed.push_back(cpu);
    CPU_FREE(set);
  }
#endif
  if (allowed.empty())
    for (int cpu = 0; cpu < static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
         ++cpu)
      allowed.push_back(cpu);
  return allowed;
}

}  // namespace

int Processors::num_logical() const {
  size_t count = 0;
  for (const auto& core : cores) count += core.size();
  return static_cast<int>(count);
}

int Processors::default_threads() const {
  const auto count = static_cast<double>(cores.size());
  return std::max(1, static_cast<int>(std::min(count, std::ceil(quota))));
}

Processors read_processors(const std::string& root, const std::vector<int>& allowed) {
  Processors result;
  std::map<std::string, size_t> core_of_siblings;
  for (const int cpu : allowed) {
    const std::string topology =
        root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    std::string siblings = first_line(topology + "core_cpus_list");
    if (siblings.empty()) siblings = first_line(topology + "thread_siblings_list");  // before 5.3
    if (siblings.empty()) siblings = "cpu " + std::to_string(cpu);
    const auto [it, is_new] = core_of_siblings.emplace(siblings, result.cores.size());
    if (is_new) result.cores.emplace_back();
    result.cores[it->second].push_back(cpu);
  }
  result.quota = cgroup_quota(root);
  return result;
}

Processors available_processors() { return read_processors("", allowed_processors()); }

}  // namespace nanovllm
