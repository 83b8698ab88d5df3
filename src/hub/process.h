// Runs another program and waits for it; no shell in between.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace nanovllm {

struct ProcessResult {
  int exit_code = -1;      // 128 + the signal if one ended it
  bool not_found = false;  // no such program in $PATH
  bool stopped = false;    // by keep_going
  std::string errors;      // the last 64 KiB of its stderr
};

// Its stdout goes to this process's stderr (results are not mixed up), its stderr into the result,
// its stdin is empty. variables ("NAME=value") are added to its environment. keep_going is called
// about ten times a second; when it returns false the program is ended and the result says so.
ProcessResult run_process(const std::vector<std::string>& argv,
                          const std::vector<std::string>& variables,
                          const std::function<bool()>& keep_going);

}  // namespace nanovllm
