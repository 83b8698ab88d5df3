#include "server/step_json.h"

#include <fmt/format.h>

#include <cstdlib>
#include <iterator>

namespace nanovllm {
namespace {

using Status = StepTraceSequence::Status;

// Writes ids one after the other as runs.
class Runs {
 public:
  explicit Runs(std::string* out) : out_(*out) { out_ += '['; }
  ~Runs() {
    flush();
    out_ += ']';
  }
  void add(int32_t id) {
    if (length_ > 0 && id == last_ + direction_ && direction_ != 0) {
      last_ = id;
      ++length_;
    } else if (length_ == 1 && std::abs(id - last_) == 1) {
      direction_ = id - last_;
      last_ = id;
      ++length_;
    } else {
      flush();
      first_ = last_ = id;
      length_ = 1;
      direction_ = 0;
    }
  }

 private:
  void flush() {
    if (length_ == 0) return;
    if (out_.back() != '[') out_ += ',';
    fmt::format_to(std::back_inserter(out_), "{},{}", first_, last_);
  }
  std::string& out_;
  int32_t first_ = 0, last_ = 0, direction_ = 0;
  int64_t length_ = 0;
};

const char* name(Status status) {
  switch (status) {
    case Status::kWaiting:
      return "waiting";
    case Status::kRunning:
      return "running";
    case Status::kFinished:
      break;
  }
  return "finished";
}

void add_batch(const StepTrace& trace, std::string* out) {
  *out += R"("batch":[)";
  auto end = std::back_inserter(*out);
  for (const StepTraceShare& s : trace.batch) {
    fmt::format_to(end, R"({}{{"id":{},"index":{},"first":{},"tokens":{})",
                   &s == trace.batch.data() ? "" : ",", s.request_id, s.index, s.first_position,
                   s.num_tokens);
    if (s.is_decode) *out += R"(,"decode":true)";
    if (s.num_cached_tokens > 0) fmt::format_to(end, R"(,"cached":{})", s.num_cached_tokens);
    if (s.num_draft_tokens > 0)
      fmt::format_to(end, R"(,"drafts":{},"accepted":{})", s.num_draft_tokens,
                     s.num_accepted_tokens);
    *out += '}';
  }
  *out += ']';
}

void add_sequences(const StepTrace& trace, std::string* out) {
  *out += R"("sequences":[)";
  int64_t waiting = 0;
  for (const StepTraceSequence& s : trace.sequences) {
    if (s.status == Status::kWaiting && ++waiting > kMaxWaitingShown) break;
    fmt::format_to(
        std::back_inserter(*out),
        R"({}{{"id":{},"index":{},"status":"{}","reason":"{}","prompt":{},"output":{},"computed":{},"blocks":)",
        &s == trace.sequences.data() ? "" : ",", s.request_id, s.index, name(s.status),
        to_string(s.finish_reason), s.num_prompt_tokens, s.num_output_tokens,
        s.num_computed_tokens);
    {
      Runs runs(out);
      for (const int32_t id : s.block_table) runs.add(id);
    }
    *out += '}';
  }
  *out += ']';
}

}  // namespace

std::string step_json(const StepTrace& trace) {
  const StepSeconds& p = trace.phases;
  const EngineStats& s = trace.stats;
  std::string out = fmt::format(
      R"({{"step":{},"start":{:.6f},"seconds":{:.6f},)"
      R"("phases":{{"schedule":{:.6f},"model":{:.6f},"logits":{:.6f},"sample":{:.6f},"postprocess":{:.6f}}},)",
      trace.step, trace.start, trace.duration, p.schedule, p.model, p.logits, p.sample,
      p.postprocess);
  add_batch(trace, &out);
  out += ',';
  add_sequences(trace, &out);
  out += R"(,"cached":)";
  {
    Runs runs(&out);
    for (int32_t id = 0; id < std::ssize(trace.blocks); ++id)
      if (trace.blocks[id].is_cached) runs.add(id);
  }
  fmt::format_to(std::back_inserter(out),
                 R"(,"stats":{{"running":{},"waiting":{},"kv_blocks_used":{},"preemptions":{},)"
                 R"("prompt_tokens_computed":{},"prompt_tokens_cached":{},"tokens_generated":{},)"
                 R"("num_draft_tokens":{},"num_accepted_tokens":{}}}}})",
                 s.running, s.waiting, s.kv_blocks_used, s.preemptions, s.prompt_tokens_computed,
                 s.prompt_tokens_cached, s.tokens_generated, s.num_draft_tokens,
                 s.num_accepted_tokens);
  return out;
}

std::string queue_json(const QueueSnapshot& queue) {
  std::string out = fmt::format(R"({{"count":{},"first":[)", queue.count);
  for (const QueueSnapshot::Entry& e : queue.first)
    fmt::format_to(
        std::back_inserter(out),
        R"({}{{"key":"{}","prompt":{},"completions":{},"priority":{},"seconds":{:.3f}}})",
        &e == queue.first.data() ? "" : ",", e.key, e.prompt_tokens, e.completions, e.priority,
        e.seconds);
  return out + "]}";
}

}  // namespace nanovllm
