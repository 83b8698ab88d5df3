// API keys: who may call the server, and how much of it each may have.
//
// The file holds SHA-256 digests, so that whoever reads it cannot use the keys:
//
//   {"keys": [{"name": "alice", "key_sha256": "9f86d0…", "weight": 2, "tokens_per_minute": 60000}]}
//
// A key is written "nv-" and 32 random bytes by whoever makes it; a digest without salt or
// stretching is safe for such keys, and not for short passwords. Nothing changes but by renew(),
// which is for a copy: any thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nanovllm/error.h"

namespace nanovllm {

struct ApiKey {
  std::string name;  // [A-Za-z0-9._-]{1,64}, unique; in metrics and logs, where the key never is
  std::array<uint8_t, 32> sha256{};
  double weight = 1;  // of the key's share when others want the server too
  // Limits; 0 is none. Prompts of one HTTP request count one by one, but for requests_per_minute.
  int64_t max_concurrent_requests = 0;  // more than these wait, although there is room
  int64_t max_queued_requests = 0;      // more than these waiting are refused
  int64_t requests_per_minute = 0, tokens_per_minute = 0;
  bool admin = false;         // may read /metrics and watch the engine
  bool shared_cache = false;  // shares cached prefixes with all other keys that say so
  bool removed = false;       // by renew(): nobody's any more
};

class ApiKeys {
 public:
  ApiKeys() = default;  // nobody needs a key

  // Throws InvalidArgument naming the file, the entry and the field.
  static ApiKeys from_file(const std::string& path);
  static ApiKeys parse(const std::string& where, std::string_view json);
  // A key in plain text, from the command line or the environment: an admin without limits.
  void add(const std::string& name, std::string_view key);

  // Becomes `newer`, but for the indices: a key keeps its own as long as it has its name, one that
  // `newer` has not got is removed, and new ones come last. What is counted by index goes on.
  void renew(const ApiKeys& newer);

  bool required() const { return !keys_.empty(); }
  const std::vector<ApiKey>& keys() const { return keys_; }

  // The index of the key in the value of an Authorization header, "Bearer KEY". Takes the same time
  // whichever key it is, and whether or not it is one.
  std::optional<size_t> find(std::string_view authorization) const;

  // What separates this key's cached prefixes from those of others; salt is the request's own.
  std::string cache_salt(size_t key, const std::string& salt) const;

 private:
  void append(ApiKey key, const std::string& where);
  std::vector<ApiKey> keys_;
};

std::array<uint8_t, 32> sha256(std::string_view text);

}  // namespace nanovllm
