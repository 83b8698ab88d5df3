// serve: the HTTP server. Loads the model, then three kinds of thread work: one for the network,
// two that parse and tokenize, and the engine's; this one waits for a signal.
#include <fmt/format.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>

#include "cli/cli.h"
#include "cli/load.h"
#include "cli/shared_flags.h"
#include "server/api_server.h"
#include "server/engine_view.h"
#include "server/openai_response.h"
#include "server/web_page.h"
#include "trace/trace_file.h"

namespace nanovllm::cli {
namespace {

struct ServeOptions {
  EngineConfig config;
  http::ServerOptions http;
  ApiOptions api;
  AdmissionOptions admission;
  std::vector<std::string> plain_keys;
  std::string key_file, access_log;
  bool allow_unauthenticated = false;
  std::string trace;
  double shutdown_timeout = 30;
  bool quiet = false;
};

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

// "https://a.example,https://b.example", or vLLM's JSON list.
std::vector<std::string> parse_list(const std::string& flag, const std::string& text) {
  std::vector<std::string> items;
  if (text.starts_with('[')) {
    const openai::Json list = openai::parse_body(text);
    for (const openai::Json& item : list) {
      if (!item.is_string()) throw InvalidArgument(flag, "'" + text + "' is no list of strings");
      items.push_back(item.get<std::string>());
    }
    return items;
  }
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) items.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return items;
}

void seconds_flag(Flags& flags, const char* name, const char* help,
                  std::chrono::milliseconds* target) {
  flags.value(name, "SECONDS", help, [target](const std::string& flag, const std::string& value) {
    const double seconds = parse_number(flag, value);
    if (seconds <= 0 || seconds > 86400)
      throw InvalidArgument(flag, "'" + value + "' is not allowed; give 0.001 to 86400");
    *target = std::chrono::milliseconds(std::max<int64_t>(1, static_cast<int64_t>(seconds * 1e3)));
  });
}

// Every connection is a file; the usual soft limit is 1,024.
void raise_file_limit(size_t connections) {
  struct rlimit limit {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const auto wanted = static_cast<rlim_t>(connections + 256);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  setrlimit(RLIMIT_NOFILE, &limit);
}

// When nobody is left nothing may be held: what is wrong, or "".
std::string left_behind(EngineThread& engine) {
  std::string wrong;
  engine.run([&](LLM& llm) {
    try {
      llm.check_integrity();
    } catch (const std::exception& e) {
      wrong = e.what();
    }
    const EngineStats s = llm.stats();
    if (wrong.empty() && s.running + s.waiting + s.kv_blocks_used > 0)
      wrong = fmt::format("{} sequences running, {} waiting and {} KV blocks in use", s.running,
                          s.waiting, s.kv_blocks_used);
  });
  return wrong;
}

ApiKeys load_keys(const ServeOptions& options) {
  ApiKeys keys;
  if (!options.key_file.empty()) keys = ApiKeys::from_file(options.key_file);
  std::vector<std::string> plain = options.plain_keys;
  const char* variable = std::getenv("NANO_VLLM_API_KEY");
  if (plain.empty() && variable && *variable) plain.push_back(variable);
  for (size_t i = 0; i < plain.size(); ++i)
    keys.add(i == 0 ? "api-key" : "api-key-" + std::to_string(i + 1), plain[i]);
  return keys;
}

// SIGHUP: the key file is read again.
std::atomic<bool> hang_up{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set from a signal handler");

void on_hang_up(int) {
  hang_up = true;
  Interrupt::wake();
}

// A file with a mistake changes nothing.
void renew_keys(const ServeOptions& options, Admission& admission) {
  try {
    const ApiKeys keys = load_keys(options);
    admission.renew_keys(keys);
    if (!options.quiet) fmt::print(stderr, "{} API keys read\n", keys.keys().size());
  } catch (const Error& e) {
    fmt::print(stderr, "nano-vllm: error: the keys stay as they are: {}\n", e.what());
  }
}

// The exit code. Returns when a signal has come and what ran is finished, or the engine has failed.
int run_serve(ServeOptions options) {
  AdmissionOptions& admission_options = options.admission;
  admission_options.keys = load_keys(options);
  const bool keys = admission_options.keys.required();
  // Among several keys nobody should wait long for another's step; on a processor 128 tokens a step
  // compute as many a second as 512.
  options.config.short_steps = admission_options.keys.keys().size() > 1;
  if (is_worker_rank()) return run_worker_rank(options.config);
  if (!options.access_log.empty())
    admission_options.access_log = std::make_shared<AccessLog>(options.access_log);
  if (!keys && !is_loopback(options.http.host) && !options.allow_unauthenticated)
    throw InvalidArgument(
        "--host", "'" + options.http.host +
                      "' lets others in: give --api-key-file or --api-key (or, where something "
                      "else keeps strangers out, --allow-unauthenticated)");
  if (options.http.ssl_certfile.empty() && !options.http.ssl_keyfile.empty())
    throw InvalidArgument("--ssl-keyfile", "needs --ssl-certfile");
  options.config.validate();
  raise_file_limit(options.http.limits.connections);

  ApiOptions& api_options = options.api;
  if (api_options.model_names.empty()) api_options.model_names = {options.config.model};
  api_options.model_root = options.config.model;
  api_options.version = NANO_VLLM_VERSION;
  if (api_options.allowed_hosts.empty() && !keys && !options.allow_unauthenticated)
    api_options.allowed_hosts = {"localhost", "127.0.0.1", "::1", options.http.host};
  options.http.error_content_type = "application/json";
  options.http.error_body = [](int status, const std::string& reason) {
    return openai::dump(openai::error_body(reason, "", status));
  };

  std::unique_ptr<Admission> admission;  // outlives the requests in the LLM
  std::unique_ptr<ApiServer> api;
  options.http.on_refusal = [&](const http::Request& request, const auto& responder) {
    admission->identify(request, responder);  // counted and logged as any other
  };
  // Before the model, for an address in use should not cost a minute.
  http::Server server(options.http, [&](http::Request request, http::ResponderPtr responder) {
    api->handle(std::move(request), std::move(responder));
  });
  TraceFile trace(options.trace);
  LLM llm = load_model(options.config, options.quiet);
  Interrupt interrupt;
  if (!options.key_file.empty()) std::signal(SIGHUP, on_hang_up);
  std::atomic<bool> failed{false};
  EngineThread engine(llm, [&](const std::string& why) {
    fmt::print(stderr, "nano-vllm: error: the engine has failed: {}\n", why);
    admission->engine_failed();
    failed = true;
    Interrupt::wake();
  });
  admission_options.model_name = api_options.model_names[0];
  admission_options.version = NANO_VLLM_VERSION;
  admission_options.slots = llm.config().max_num_seqs;
  admission_options.step_tokens = llm.config().max_num_batched_tokens;
  admission_options.max_model_len = llm.memory_plan().max_model_len;
  admission = std::make_unique<Admission>(admission_options, engine);
  api = std::make_unique<ApiServer>(llm, engine, *admission, api_options);
  add_web_page(*api, llm, dialog_defaults(options.config.model, llm), api_options.model_names[0],
               api_options.version);
  EngineView::Options view_options{.model = api_options.model_names[0],
                                   .config = llm.config(),
                                   .queue = [&] { return admission->queue(); }};
  if (!options.trace.empty())
    view_options.observer = [&trace](const StepTrace& step) { trace.add(step); };
  EngineView view(*api, engine, std::move(view_options));
  server.start();
  fmt::print(stderr, "listening on {}\n", server.url());

  while (!Interrupt::signal() && !failed) {
    Interrupt::wait(3600);
    if (hang_up.exchange(false)) renew_keys(options, *admission);
  }
  if (!options.quiet && !failed) fmt::print(stderr, "shutting down; again to leave at once\n");
  view.close();
  std::atomic<bool> drained{false};
  server.drain([&] {
    drained = true;
    Interrupt::wake();
  });
  const auto wait_until_drained = [&](double seconds) {
    const double end = seconds_since_start() + seconds;
    while (!drained && seconds_since_start() < end) Interrupt::wait(end - seconds_since_start());
  };
  wait_until_drained(failed ? 2 : options.shutdown_timeout);
  if (!drained && !failed) {
    if (!options.quiet) fmt::print(stderr, "aborting what still runs\n");
    admission->abort_all();
    wait_until_drained(2);
  }
  // No more requests, then no more steps; the workers find both gone.
  server.stop();
  if (const std::string wrong = drained && !failed ? left_behind(engine) : ""; !wrong.empty()) {
    fmt::print(stderr, "nano-vllm: error: left behind: {}\n", wrong);
    failed = true;
  }
  engine.stop();
  admission->close();
  api.reset();
  trace.close();
  return failed ? kExitError : kExitOk;
}

}  // namespace

Action define_serve(Flags& flags) {
  auto o = std::make_shared<ServeOptions>();
  http::Limits& limits = o->http.limits;
  add_model_flags(flags, &o->config);
  flags.text("--host", "ADDRESS", "where to listen (default: 127.0.0.1)", &o->http.host);
  flags.value("--port", "N", "0 picks a free one (default: 8000)",
              [o](const std::string& flag, const std::string& value) {
                o->http.port = static_cast<uint16_t>(parse_integer(flag, value, 0, 65535));
              });
  flags.values(
      "--served-model-name", "NAME",
      "what requests may call the model, and the first of them what responses do "
      "(default: MODEL)",
      [o](const std::string&, const std::string& value) { o->api.model_names.push_back(value); });
  flags.text("--ssl-certfile", "FILE", "PEM certificate chain; turns TLS on",
             &o->http.ssl_certfile);
  flags.text("--ssl-keyfile", "FILE", "its key (default: in the same file)", &o->http.ssl_keyfile);
  flags.value("--allowed-origins", "LIST",
              "origins whose pages may call this server from a browser, as https://a.example,... "
              "or *; CORS (default: none)",
              [o](const std::string& flag, const std::string& value) {
                o->api.allowed_origins = parse_list(flag, value);
              });
  flags.value("--allowed-hosts", "LIST",
              "names by which clients may call it (default: localhost, 127.0.0.1, ::1 and --host)",
              [o](const std::string& flag, const std::string& value) {
                o->api.allowed_hosts = parse_list(flag, value);
              });
  flags.number("--shutdown-timeout",
               "seconds that running requests have left after the first signal (default: 30)",
               &o->shutdown_timeout);
  add_trace_flag(flags, &o->trace);
  flags.toggle("-q,--quiet", "no figures on stderr", &o->quiet);
  flags.heading("API keys, fair share, records");
  flags.text("--api-key-file", "FILE",
             "JSON with names, SHA-256 digests, weights and limits of keys; read again at SIGHUP; "
             "see docs/serving.md",
             &o->key_file);
  flags.values(
      "--api-key", "KEY",
      "a key without limits, also from NANO_VLLM_API_KEY (others can see it in the list "
      "of processes; a key file is better)",
      [o](const std::string&, const std::string& value) { o->plain_keys.push_back(value); });
  flags.toggle("--allow-unauthenticated", "listen beyond the loopback without keys",
               &o->allow_unauthenticated);
  flags.value("--max-queued-requests", "N",
              "waiting for the engine; more are answered with 429 (default: 10000)",
              [o](const std::string& flag, const std::string& value) {
                o->admission.max_queued_requests = parse_integer(flag, value, 1, 10'000'000);
              });
  flags.text("--access-log", "FILE",
             "a line of JSON for each response; - is stderr (default: none)", &o->access_log);
  flags.heading("Limits on clients");
  flags.value("--max-body-size", "SIZE", "of a request, as 32MiB (default: 32MiB)",
              [&limits, o](const std::string& flag, const std::string& value) {
                limits.body_bytes = static_cast<size_t>(parse_memory_bytes(flag, value));
              });
  flags.value("--max-connections", "N", "open at once; more are closed (default: 20000)",
              [&limits, o](const std::string& flag, const std::string& value) {
                limits.connections = static_cast<size_t>(parse_integer(flag, value, 1, 1'000'000));
              });
  flags.value("--max-unsent-bytes", "SIZE",
              "of a stream whose client does not read; then it is dropped (default: 1MiB)",
              [&limits, o](const std::string& flag, const std::string& value) {
                limits.unsent_bytes = static_cast<size_t>(parse_memory_bytes(flag, value));
              });
  seconds_flag(flags, "--timeout-keep-alive", "between two requests of a connection (default: 120)",
               &limits.idle_timeout);
  seconds_flag(flags, "--timeout-header", "for a request's header to arrive (default: 20)",
               &limits.header_timeout);
  seconds_flag(flags, "--timeout-body", "for its body (default: 60)", &limits.body_timeout);
  seconds_flag(flags, "--timeout-write", "for a client that reads nothing (default: 60)",
               &limits.write_timeout);
  add_engine_seed(flags, &o->config);
  add_engine_flags(flags, &o->config);
  flags.note(
      "SIGINT or SIGTERM: nothing more is accepted, what runs is finished or, after "
      "--shutdown-timeout, aborted. A second one ends the program at once.");
  return [o] { return run_serve(*o); };
}

}  // namespace nanovllm::cli
