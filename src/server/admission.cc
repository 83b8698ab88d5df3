#include "server/admission.h"

#include <algorithm>
#include <cmath>

#include "server/api_call.h"
#include "server/api_reply.h"
#include "server/openai_response.h"

namespace nanovllm {
namespace {

// A guess of how much will be generated, charged in advance; the rest follows as it comes.
constexpr int64_t kExpectedOutput = 64;

// Of a key that has been removed, while its last requests are answered.
constexpr double kLeastWeight = 0.01;

std::vector<ShareLimits> shares_of(const ApiKeys& keys) {
  if (!keys.required()) return {ShareLimits{}};
  std::vector<ShareLimits> shares;
  for (const ApiKey& key : keys.keys())
    shares.push_back({key.removed ? kLeastWeight : key.weight, key.max_concurrent_requests,
                      key.max_queued_requests, key.requests_per_minute, key.tokens_per_minute});
  return shares;
}

std::vector<std::string> names_of(const ApiKeys& keys) {
  if (!keys.required()) return {""};
  std::vector<std::string> names;
  for (const ApiKey& key : keys.keys()) names.push_back(key.name);
  return names;
}

}  // namespace

Ticket::~Ticket() { admission_.leave(*this); }

void Ticket::on_event(size_t prompt, const StreamEvent& event) {
  const double now = admission_.now();
  const std::lock_guard lock(admission_.mutex_);
  PromptState& state = prompts_[prompt];
  CallRecord& record = *record_;
  int64_t computed = 0;
  if (!state.computed && event.output) {
    state.computed = true;
    const int64_t cached = event.output->num_cached_tokens;
    computed += state.length - cached;
    admission_.uncomputed_ -= state.length;
    record.prompt_tokens += state.length;
    record.cached_tokens += cached;
  }
  if (event.token_id >= 0) {
    ++computed;
    ++record.output_tokens;
    double& last = state.last_token[static_cast<size_t>(event.index)];
    if (last >= 0) admission_.metrics_.add_token_gap(now - last);
    last = record.last_token = now;
    if (record.first_token < 0) record.first_token = now;
  }
  const bool completion_over = event.finish_reason != FinishReason::kNone;
  if (completion_over) record.finish_reasons.push_back(event.finish_reason);
  admission_.queue_.charge(id_, computed, now);
  if (event.request_finished) admission_.queue_.free_slots(id_, slots_of_prompt_);
}

Admission::Admission(AdmissionOptions options, EngineThread& engine)
    : options_(std::move(options)),
      metrics_(options_.model_name, options_.version, names_of(options_.keys),
               options_.max_model_len),
      keys_(std::make_shared<const ApiKeys>(options_.keys)),
      engine_(&engine),
      queue_(shares_of(options_.keys), options_.slots, options_.max_queued_requests) {
  engine.before_step([this](LLM& llm) {
    metrics_.add_step(llm.stats());
    pump(llm);
  });
}

std::shared_ptr<const ApiKeys> Admission::keys() const {
  const std::lock_guard lock(mutex_);
  return keys_;
}

void Admission::renew_keys(const ApiKeys& newer) {
  const std::lock_guard lock(mutex_);
  ApiKeys keys = *keys_;
  keys.renew(newer);
  metrics_.set_keys(names_of(keys));
  queue_.set_shares(shares_of(keys));
  keys_ = std::make_shared<const ApiKeys>(std::move(keys));
}

double Admission::now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

Visitor Admission::identify(const http::Request& request, const http::ResponderPtr& responder) {
  Visitor visitor;
  visitor.record->arrived = now();
  std::string name;
  if (const std::string* header = request.header("Authorization")) {
    const auto keys = this->keys();
    if (const auto key = keys->find(*header)) {
      visitor.key = visitor.record->key = *key;
      visitor.known = true;
      name = keys->keys()[*key].name;
    }
  }
  responder->on_done([this, name, record = visitor.record, method = request.method,
                      path = request.path,
                      remote = request.remote_address](const http::Outcome& outcome) {
    metrics_.add_response(outcome.status);
    if (!options_.access_log) return;
    CallRecord call;
    {
      const std::lock_guard lock(mutex_);
      call = *record;
    }
    options_.access_log->write({.key = name,
                                .remote = remote,
                                .method = method,
                                .path = path,
                                .status = outcome.status,
                                .bytes = outcome.bytes,
                                .complete = outcome.complete,
                                .seconds = now() - call.arrived,
                                .call = &call});
  });
  return visitor;
}

bool Admission::admits(const Visitor& visitor, Access access, http::Responder& responder) {
  const auto keys = this->keys();
  if (keys->required() && access != Access::kAnybody &&
      (!visitor.known || (access == Access::kAdmin && !keys->keys()[visitor.key].admin))) {
    forbid(responder, visitor.known);
    return false;
  }
  if (access != Access::kCompute) return true;
  std::optional<FairQueue::Refusal> refusal;
  {
    const std::lock_guard lock(mutex_);
    refusal = queue_.check(visitor.key, now());
  }
  if (refusal) refuse(responder, visitor.key, *refusal);
  return !refusal;
}

void Admission::forbid(http::Responder& responder, bool known) {
  if (known) return send_error(responder, 403, "this needs an admin's API key");
  openai::Json body = openai::error_body(
      "Incorrect or missing API key. Send it as \"Authorization: Bearer KEY\".", "", 401);
  body["error"]["type"] = "invalid_request_error";
  body["error"]["code"] = "invalid_api_key";
  responder.add_header("WWW-Authenticate", "Bearer");
  send_json(responder, 401, body);
}

void Admission::refuse(http::Responder& responder, size_t key, const FairQueue::Refusal& refusal) {
  metrics_.add_refusal(key);
  openai::Json body = openai::error_body(refusal.message, "", 429);
  body["error"]["type"] = "rate_limit_error";
  body["error"]["code"] = refusal.code;
  responder.add_header("Retry-After", std::to_string(static_cast<int64_t>(std::clamp(
                                          std::ceil(refusal.retry_after), 1.0, 3600.0))));
  send_json(responder, 429, body);
}

void Admission::submit(std::shared_ptr<ApiCall> call, const Visitor& visitor) {
  auto& request = call->request;
  request.options.cache_salt = keys()->cache_salt(visitor.key, request.options.cache_salt);
  const auto completions = static_cast<size_t>(request.params.n);
  std::unique_ptr<Ticket> ticket(new Ticket(*this));
  ticket->record_ = visitor.record;
  ticket->slots_of_prompt_ = request.params.n;
  int64_t tokens = 0;
  for (const Prompt& prompt : call->prompts) {
    const auto length = static_cast<int64_t>(std::max<size_t>(1, prompt.token_ids.size()));
    ticket->prompts_.push_back(
        {.length = length, .last_token = std::vector<double>(completions, -1)});
    const int64_t most = request.params.max_tokens;
    tokens +=
        length + request.params.n * (most < 0 ? kExpectedOutput : std::min(most, kExpectedOutput));
  }
  const auto slots = static_cast<int64_t>(call->prompts.size() * completions);
  const uint64_t id = ticket->id_ = next_id_++;
  // Before it can start, for ApiCall::start puts another in its place.
  call->responder->on_disconnect([this, id] { drop(id); });
  bool newcomer = false;
  {
    const std::lock_guard lock(mutex_);
    if (aborting_) return send_error(*call->responder, 503, "the server is shutting down");
    visitor.record->n = request.params.n;
    visitor.record->max_tokens = request.params.max_tokens;
    newcomer = queue_.push({.id = id,
                            .key = visitor.key,
                            .priority = request.options.priority,
                            .slots = slots,
                            .tokens = tokens});
    call->ticket = std::move(ticket);
    waiting_[id] = std::move(call);
  }
  // A newcomer does not wait for the end of the step, which is done again afterwards.
  if (!post([this](LLM& llm) { pump(llm); }, newcomer)) drop(id);
}

void Admission::pump(LLM& llm) {
  while (true) {
    std::shared_ptr<ApiCall> call;
    EngineThread* engine = nullptr;
    {
      const std::lock_guard lock(mutex_);
      engine = engine_;
      // The engine gets prompts for its next step and no more: whoever comes meanwhile is in time
      // for the step after it. Where there is one key only, order does not matter.
      const bool enough = many_keys() && uncomputed_ >= options_.step_tokens;
      const auto entry = queue_.pop(now(), enough);
      if (!entry) return;
      const auto it = waiting_.find(entry->id);
      if (it == waiting_.end()) continue;  // on its way out: its Ticket is about to leave
      call = std::move(it->second);
      waiting_.erase(it);
      // Among several keys the order of their requests is the fair queue's affair.
      if (many_keys()) call->request.options.priority = entry->level;
      for (const Ticket::PromptState& prompt : call->ticket->prompts_) uncomputed_ += prompt.length;
      call->ticket->record_->entered = now();
    }
    call->start(llm, *engine);
    std::erase_if(running_, [](const auto& other) { return other.expired(); });
    running_.push_back(call);
  }
}

void Admission::drop(uint64_t id) {
  std::shared_ptr<ApiCall> call;  // destroyed after the lock is given back
  const std::lock_guard lock(mutex_);
  if (const auto it = waiting_.find(id); it != waiting_.end()) {
    call = std::move(it->second);
    waiting_.erase(it);
  }
}

void Admission::leave(Ticket& ticket) {
  const double time = now();
  bool others_wait = false;
  {
    const std::lock_guard lock(mutex_);
    // Prompts that were given up on have been computed in part: they count as if wholly.
    for (const Ticket::PromptState& prompt : ticket.prompts_)
      if (ticket.record_->entered >= 0 && !prompt.computed) {
        queue_.charge(ticket.id_, prompt.length, time);
        uncomputed_ -= prompt.length;
      }
    queue_.remove(ticket.id_);
    others_wait = queue_.num_queued() > 0;
  }
  if (ticket.record_->entered >= 0) metrics_.add_call(*ticket.record_, time);
  if (others_wait) post([this](LLM& llm) { pump(llm); });
}

void Admission::abort_all() {
  std::map<uint64_t, std::shared_ptr<ApiCall>> waiting;
  {
    const std::lock_guard lock(mutex_);
    aborting_ = true;
    waiting.swap(waiting_);
  }
  for (const auto& [id, call] : waiting)
    send_error(*call->responder, 503, "the server is shutting down");
  waiting.clear();
  post([this](LLM& llm) {
    for (const auto& weak : running_)
      if (const auto call = weak.lock()) call->abort(llm);
  });
}

void Admission::engine_failed() {
  std::map<uint64_t, std::shared_ptr<ApiCall>> waiting;
  {
    const std::lock_guard lock(mutex_);
    aborting_ = true;
    waiting.swap(waiting_);
  }
  for (const auto& [id, call] : waiting) call->end(500, "the engine has failed");
  for (const auto& weak : running_)
    if (const auto call = weak.lock()) call->end(500, "the engine has failed");
}

void Admission::close() {
  const std::lock_guard lock(mutex_);
  engine_ = nullptr;
}

bool Admission::post(EngineThread::Task task, bool urgent) {
  const std::lock_guard lock(mutex_);
  if (!engine_) return false;
  return urgent ? engine_->post_urgent(std::move(task)) : engine_->post(std::move(task));
}

QueueSnapshot Admission::queue() const {
  const double time = now();
  QueueSnapshot result;
  const std::lock_guard lock(mutex_);
  result.count = std::ssize(waiting_);
  for (const auto& [id, call] : waiting_) {
    if (std::ssize(result.first) == kMaxWaitingShown) break;
    int64_t tokens = 0;
    for (const Ticket::PromptState& prompt : call->ticket->prompts_) tokens += prompt.length;
    const CallRecord& record = *call->ticket->record_;
    result.first.push_back({.key = keys_->required() ? keys_->keys()[record.key].name : "",
                            .prompt_tokens = tokens,
                            .completions = std::ssize(call->ticket->prompts_) * record.n,
                            .priority = call->request.options.priority,
                            .seconds = time - record.arrived});
  }
  return result;
}

void Admission::send_metrics(const http::ResponderPtr& responder) {
  const bool posted = post([this, responder](LLM& llm) {
    std::vector<Metrics::KeyLoad> loads(names_of(*keys()).size());
    {
      const std::lock_guard lock(mutex_);
      for (size_t i = 0; i < loads.size(); ++i)
        loads[i] = {queue_.num_queued(i), queue_.num_running(i)};
    }
    responder->send(200, {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}},
                    metrics_.text(llm.stats(), loads));
  });
  if (!posted) send_error(*responder, 503, "the engine has failed");
}

}  // namespace nanovllm
