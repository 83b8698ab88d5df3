// What xgrammar reports while a schema or grammar is read. It would go on without a keyword that it
// does not know; here that is an error, since whoever wrote the keyword counts on it.
#pragma once

#include <stdexcept>

namespace nanovllm {

struct XgrammarError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// While one lives, the first warning on this thread is thrown as an XgrammarError by check().
class StrictXgrammar {
 public:
  StrictXgrammar();
  ~StrictXgrammar();
  StrictXgrammar(const StrictXgrammar&) = delete;
  StrictXgrammar& operator=(const StrictXgrammar&) = delete;
  void check() const;
};

}  // namespace nanovllm
