#include "structured/xgrammar_log.h"

#include <string>

namespace nanovllm {
namespace {

// Warnings come from destructors, which cannot throw.
thread_local bool strict = false;
thread_local std::string first_warning;

}  // namespace

StrictXgrammar::StrictXgrammar() {
  strict = true;
  first_warning.clear();
}
StrictXgrammar::~StrictXgrammar() { strict = false; }
void StrictXgrammar::check() const {
  if (!first_warning.empty()) throw XgrammarError(first_warning);
}

}  // namespace nanovllm

// Declared by xgrammar (XGRAMMAR_LOG_CUSTOMIZE) and defined here.
namespace xgrammar {

[[noreturn]] void LogFatalImpl(const std::string&, int, const std::string& message);
void LogMessageImpl(const std::string&, int, int level, const std::string& message);

[[noreturn]] void LogFatalImpl(const std::string&, int, const std::string& message) {
  throw nanovllm::XgrammarError(message);
}

void LogMessageImpl(const std::string&, int, int level, const std::string& message) {
  constexpr int kWarning = 2;
  if (level == kWarning && nanovllm::strict && nanovllm::first_warning.empty())
    nanovllm::first_warning = message;
}

}  // namespace xgrammar
