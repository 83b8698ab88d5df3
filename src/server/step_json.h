// A StepTrace as the compact JSON that the web page's engine view reads (web/frames.js). Ids and
// counts only. Pure functions; any thread.
#pragma once

#include <string>

#include "nanovllm/step_trace.h"

namespace nanovllm {

// Waiting sequences beyond this many are left out; the stats count them.
constexpr int64_t kMaxWaitingShown = 50;

// {"step","start","seconds","phases":{…},"batch":[…],"sequences":[…],"cached":[…],"stats":{…}}.
// Block ids are written as runs [first, last, first, last, …], which may count down: neighbours are
// usually taken together, so a cache of thousands of blocks costs some hundred bytes. Members that
// are zero or false may be missing from the batch's entries.
std::string step_json(const StepTrace& trace);

}  // namespace nanovllm
