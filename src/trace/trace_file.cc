#include "trace/trace_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iterator>
#include <set>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

using Status = StepTraceSequence::Status;

// "Processes" of the trace: groups of tracks.
constexpr int kEngine = 1, kRequests = 2;
constexpr int64_t kSteps = 1;  // the engine's only track

}  // namespace

TraceFile::TraceFile(std::string path) : path_(std::move(path)) {
  if (path_.empty()) return;
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) throw Error(path_, std::strerror(errno));
  buffer_ = "[\n";
  for (const auto& [process, name] : {std::pair(kEngine, "engine"), {kRequests, "requests"}})
    buffer_ +=
        fmt::format(R"({{"ph":"M","name":"process_name","pid":{},"tid":0,"args":{{"name":"{}"}}}},)"
                    "\n",
                    process, name);
  name_track(kEngine, kSteps, "steps");
  flush();
}

TraceFile::~TraceFile() {
  try {
    close();
  } catch (const Error&) {  // who wants to know has called close()
  }
}

void TraceFile::watch(LLM& llm) {
  if (fd_ < 0) return;
  llm.set_step_observer([this](const StepTrace& trace) { add(trace); });
}

void TraceFile::close() {
  if (fd_ < 0) return;
  // Ends the array, and takes up the comma of the event before.
  buffer_ = R"({"ph":"M","name":"trace_end","pid":1,"tid":0,"args":{}}])"
            "\n";
  flush();
  if (::close(std::exchange(fd_, -1)) != 0 && error_ == 0) error_ = errno;
  if (error_ != 0) throw Error(path_, std::strerror(error_));
}

void TraceFile::add(const StepTrace& trace) {
  if (fd_ < 0 || error_ != 0) return;
  add_step(trace);
  add_sequences(trace);
  add_counters(trace);
  flush();
}

void TraceFile::add_step(const StepTrace& trace) {
  int64_t chunks = 0, decodes = 0, tokens = 0;
  for (const StepTraceShare& s : trace.batch) {
    ++(s.is_decode ? decodes : chunks);
    tokens += s.num_tokens + s.num_draft_tokens;
  }
  slice(kEngine, kSteps, fmt::format("step {}", trace.step), trace.start, trace.duration,
        fmt::format(R"("tokens":{},"prompt_chunks":{},"decodes":{})", tokens, chunks, decodes));
  double start = trace.start;
  const StepSeconds& p = trace.phases;
  for (const auto& [name, duration] : {std::pair("schedule", p.schedule),
                                       {"model", p.model},
                                       {"logits", p.logits},
                                       {"sample", p.sample},
                                       {"postprocess", p.postprocess}}) {
    slice(kEngine, kSteps, name, start, duration, "");
    start += duration;
  }
}

void TraceFile::add_sequences(const StepTrace& trace) {
  const double end = trace.start + trace.duration;
  std::set<SequenceName> seen;
  for (const StepTraceSequence& s : trace.sequences) {
    track(s);
    seen.emplace(s.request_id, s.index);
  }
  for (const StepTraceShare& s : trace.batch) {
    const auto it = tracks_.find({s.request_id, s.index});
    if (it == tracks_.end()) continue;  // cancelled by a callback of this step
    Track& t = it->second;
    if (t.waiting)
      slice(kRequests, t.number, t.preempted ? "preempted" : "waiting", t.waiting_since,
            trace.start - t.waiting_since, "");
    t.waiting = false;
    std::string args = fmt::format(R"("step":{},"tokens":{})", trace.step, s.num_tokens);
    if (s.num_cached_tokens > 0) args += fmt::format(R"(,"cached":{})", s.num_cached_tokens);
    if (s.num_draft_tokens > 0)
      args +=
          fmt::format(R"(,"drafts":{},"accepted":{})", s.num_draft_tokens, s.num_accepted_tokens);
    const std::string name = s.is_decode ? "decode"
                                         : fmt::format("prefill {}-{}", s.first_position,
                                                       s.first_position + s.num_tokens - 1);
    slice(kRequests, t.number, name, trace.start, trace.duration, args);
  }
  for (const StepTraceSequence& s : trace.sequences) {
    Track& t = track(s);
    if (s.status == Status::kWaiting && !t.waiting) {
      t.waiting = t.preempted = true;
      t.waiting_since = trace.start;  // it was thrown out before the model ran
    }
    if (s.status != Status::kFinished) continue;
    instant(t.number, to_string(s.finish_reason), end);
    tracks_.erase({s.request_id, s.index});
  }
  for (auto it = tracks_.begin(); it != tracks_.end();) {
    const bool gone = !seen.contains(it->first);
    if (gone) instant(it->second.number, to_string(FinishReason::kAbort), end);
    it = gone ? tracks_.erase(it) : std::next(it);
  }
}

void TraceFile::add_counters(const StepTrace& trace) {
  int64_t prompt = 0, decode = 0;
  for (const StepTraceShare& s : trace.batch)
    (s.is_decode ? decode : prompt) += s.num_tokens + s.num_draft_tokens;
  auto counter = [&](const char* name, const std::string& values) {
    fmt::format_to(std::back_inserter(buffer_),
                   R"({{"ph":"C","name":"{}","pid":{},"ts":{:.3f},"args":{{{}}}}},)"
                   "\n",
                   name, kEngine, trace.start * 1e6, values);
  };
  counter("tokens per step", fmt::format(R"("prefill":{},"decode":{})", prompt, decode));
  counter("KV blocks used", fmt::format(R"("blocks":{})", trace.stats.kv_blocks_used));
  counter("running", fmt::format(R"("sequences":{})", trace.stats.running));
  counter("waiting", fmt::format(R"("sequences":{})", trace.stats.waiting));
}

TraceFile::Track& TraceFile::track(const StepTraceSequence& s) {
  const auto [it, is_new] = tracks_.try_emplace({s.request_id, s.index});
  if (is_new) {
    it->second = {.number = ++num_tracks_, .waiting_since = s.arrival};
    name_track(kRequests, num_tracks_,
               s.index == 0 ? fmt::format("request {}", s.request_id)
                            : fmt::format("request {} no. {}", s.request_id, s.index + 1));
  }
  return it->second;
}

void TraceFile::slice(int process, int64_t track, const std::string& name, double start,
                      double duration, const std::string& args) {
  fmt::format_to(
      std::back_inserter(buffer_),
      R"({{"ph":"X","name":"{}","pid":{},"tid":{},"ts":{:.3f},"dur":{:.3f},"args":{{{}}}}},)"
      "\n",
      name, process, track, start * 1e6, duration * 1e6, args);
}

void TraceFile::instant(int64_t track, const std::string& name, double time) {
  fmt::format_to(std::back_inserter(buffer_),
                 R"({{"ph":"i","s":"t","name":"{}","pid":{},"tid":{},"ts":{:.3f}}},)"
                 "\n",
                 name, kRequests, track, time * 1e6);
}

void TraceFile::name_track(int process, int64_t track, const std::string& name) {
  for (const auto& [kind, value] : {std::pair("thread_name", "\"name\":\"" + name + "\""),
                                    {"thread_sort_index", fmt::format("\"sort_index\":{}", track)}})
    fmt::format_to(std::back_inserter(buffer_),
                   R"({{"ph":"M","name":"{}","pid":{},"tid":{},"args":{{{}}}}},)"
                   "\n",
                   kind, process, track, value);
}

void TraceFile::flush() {
  std::string_view left = buffer_;
  while (!left.empty() && error_ == 0) {
    const ssize_t n = ::write(fd_, left.data(), left.size());
    if (n >= 0)
      left.remove_prefix(static_cast<size_t>(n));
    else if (errno != EINTR)
      error_ = errno;
  }
  buffer_.clear();
}

}  // namespace nanovllm
