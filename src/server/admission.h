// Admission: whose request this is, whether it may come in, and when. It stands between the routes
// and the engine: a FairQueue decides who is next, and what each call costs is written down for the
// fair queue, the metrics and the access log.
//
// The I/O thread calls identify() and admits(), a worker submit(), the engine's thread pump() and
// the Tickets' events. One lock; under it only the metrics' is taken. It outlives the LLM, whose
// requests hold Tickets.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/access_log.h"
#include "server/api_keys.h"
#include "server/engine_thread.h"
#include "server/fair_queue.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/step_json.h"

namespace nanovllm {

class Admission;
class ApiCall;

// Who may use a route. kCompute: a key within its limits.
enum class Access { kAnybody, kKey, kCompute, kAdmin };

// Who sent a request, as far as is known, and what it costs.
struct Visitor {
  size_t key = 0;      // 0 too if no key is needed
  bool known = false;  // it has sent a key
  std::shared_ptr<CallRecord> record = std::make_shared<CallRecord>();
};

// A call's place: in the queue, then in the engine. Its destructor gives it up.
class Ticket {
 public:
  ~Ticket();
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;

  // Engine thread, for each event of the call's prompts.
  void on_event(size_t prompt, const StreamEvent& event);

 private:
  friend class Admission;
  explicit Ticket(Admission& admission) : admission_(admission) {}

  struct PromptState {
    bool computed = false;  // its prompt has been charged
    int64_t length = 0;
    std::vector<double> last_token;  // by completion; -1: none yet
  };
  Admission& admission_;
  uint64_t id_ = 0;
  int64_t slots_of_prompt_ = 1;
  std::vector<PromptState> prompts_;
  std::shared_ptr<CallRecord> record_;  // under the lock, for it outlives this
};

struct AdmissionOptions {
  ApiKeys keys;
  std::string model_name, version;
  int64_t slots = 64;         // max_num_seqs
  int64_t step_tokens = 512;  // max_num_batched_tokens
  int64_t max_model_len = 0;
  int64_t max_queued_requests = 10'000;   // of all keys
  std::shared_ptr<AccessLog> access_log;  // may be null
};

class Admission {
 public:
  Admission(AdmissionOptions options, EngineThread& engine);

  // From here on the response is counted and, when it is over, logged.
  Visitor identify(const http::Request& request, const http::ResponderPtr& responder);
  // False: the request has been answered, with 401 or 403 or, for kCompute, with 429.
  bool admits(const Visitor& visitor, Access access, http::Responder& responder);

  // Queues a call; from here on the queue and then the engine's request keep it alive.
  void submit(std::shared_ptr<ApiCall> call, const Visitor& visitor);
  // Any thread. What those who are let in already have asked for is answered.
  void renew_keys(const ApiKeys& newer);
  // Engine thread: lets in who is next, as long as there is room.
  void pump(LLM& llm);
  void abort_all();      // any thread: what waits and what runs, and what comes
  void engine_failed();  // engine thread: whoever waits for an answer gets an error
  void close();          // the engine is going to be destroyed

  QueueSnapshot queue() const;  // any thread: what waits

  // Answers with the metrics, once the engine has told its part.
  void send_metrics(const http::ResponderPtr& responder);

  double now() const;  // seconds since construction

 private:
  friend class Ticket;
  static void forbid(http::Responder& responder, bool known);
  void refuse(http::Responder& responder, size_t key, const FairQueue::Refusal& refusal);
  bool post(EngineThread::Task task, bool urgent = false);  // false: the engine is gone
  void leave(Ticket& ticket);
  std::shared_ptr<const ApiKeys> keys() const;
  bool many_keys() const { return keys_->keys().size() > 1; }  // under the lock
  void drop(uint64_t id);                                      // its client has left

  const AdmissionOptions options_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  Metrics metrics_;
  mutable std::mutex mutex_;
  std::shared_ptr<const ApiKeys> keys_;
  EngineThread* engine_;  // null: closed
  FairQueue queue_;
  int64_t uncomputed_ = 0;                                // prompt tokens of what is in the engine
  std::map<uint64_t, std::shared_ptr<ApiCall>> waiting_;  // in order of arrival
  std::atomic<uint64_t> next_id_ = 1;
  bool aborting_ = false;
  std::vector<std::weak_ptr<ApiCall>> running_;  // engine thread: what may still run
};

}  // namespace nanovllm
