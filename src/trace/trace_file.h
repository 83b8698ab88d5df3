// TraceFile: the engine's steps as a trace that Perfetto (https://ui.perfetto.dev) and
// chrome://tracing show: a track of steps with their phases, a track a sequence (waiting, prompt
// chunks, decodes, preempted), and counters.
//
// The format is the JSON array of "Trace Event Format"
// (https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU). Every step
// is written when it ends; the array's closing bracket comes with close() and may be missing, so a
// program that is killed leaves a trace that can be shown all the same.
//
// Used by one thread at a time; watch() makes that the engine's.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "nanovllm/llm.h"
#include "nanovllm/step_trace.h"

namespace nanovllm {

class TraceFile {
 public:
  // An empty path: no file, and everything here does nothing. Throws Error if it cannot be written.
  explicit TraceFile(std::string path);
  ~TraceFile();
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;

  // From now on every step of llm is added, until close(). Outlives llm, or its last step at least.
  void watch(LLM& llm);
  void add(const StepTrace& trace);  // never throws: what went wrong is told by close()
  void close();                      // throws Error if anything could not be written

 private:
  struct Track {
    int64_t number = 0;
    bool waiting = true;
    bool preempted = false;    // so it waits for the second time
    double waiting_since = 0;  // seconds
  };
  using SequenceName = std::pair<uint64_t, int>;  // request id, index

  void add_step(const StepTrace& trace);
  void add_sequences(const StepTrace& trace);
  void add_counters(const StepTrace& trace);
  Track& track(const StepTraceSequence& sequence);
  // One event each; seconds since the LLM's beginning. args: the inside of a JSON object.
  void slice(int process, int64_t track, const std::string& name, double start, double duration,
             const std::string& args);
  void instant(int64_t track, const std::string& name, double time);
  void name_track(int process, int64_t track, const std::string& name);
  void flush();

  const std::string path_;
  int fd_ = -1;
  int error_ = 0;       // errno of the first write that failed
  std::string buffer_;  // events of this step
  std::map<SequenceName, Track> tracks_;
  int64_t num_tracks_ = 0;
};

}  // namespace nanovllm
