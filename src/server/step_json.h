// A StepTrace as the compact JSON that the web page's engine view reads (web/frames.js). Ids and
// counts only. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nanovllm/step_trace.h"

namespace nanovllm {

// Waiting sequences beyond this many are left out; the stats count them.
constexpr int64_t kMaxWaitingShown = 50;

// {"step","start","seconds","phases":{…},"batch":[…],"sequences":[…],"cached":[…],"stats":{…}}.
// Block ids are written as runs [first, last, first, last, …], which may count down: neighbours are
// usually taken together, so a cache of thousands of blocks costs some hundred bytes. Members that
// are zero or false may be missing from the batch's entries.
std::string step_json(const StepTrace& trace);

// Requests that wait outside the engine, for a slot or for their key's turn.
struct QueueSnapshot {
  struct Entry {
    std::string key;  // its name; empty without keys
    int64_t prompt_tokens = 0, completions = 0;
    int priority = 0;
    double seconds = 0;  // it has waited
  };
  int64_t count = 0;
  std::vector<Entry> first;  // in order of arrival, kMaxWaitingShown at most
};

// {"count","first":[{"key","prompt","completions","priority","seconds"},…]}
std::string queue_json(const QueueSnapshot& queue);

}  // namespace nanovllm
