// Processors: which physical cores this process may use, and how much of their time.
//
// Read from the affinity mask, the kernel's topology files and the processor quota of the cgroups
// (v1 or v2) that the process is in. What cannot be read is taken as no limit.
#pragma once

#include <limits>
#include <string>
#include <vector>

namespace nanovllm {

struct Processors {
  std::vector<std::vector<int>> cores;  // the logical processors of each, those allowed; not empty
  double quota = std::numeric_limits<double>::infinity();  // processors' worth of time

  int num_logical() const;
  // Threads to run by default: one a physical core, since two that share its multipliers gain
  // nothing, and no more than the quota has time for.
  int default_threads() const;
};

// Of the calling thread.
Processors available_processors();

// From the files under `root`, for the logical processors `allowed`.
Processors read_processors(const std::string& root, const std::vector<int>& allowed);

}  // namespace nanovllm
