#include "server/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

#include "server/openai_json.h"

namespace nanovllm {
namespace {

using openai::Json;

constexpr size_t kMaxFileBytes = size_t{16} << 20, kMaxKeys = 10'000, kMaxKeyBytes = 4096;
constexpr int64_t kMaxLimit = int64_t{1} << 50;

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::array<uint8_t, 32> parse_digest(const std::string& text) {
  std::array<uint8_t, 32> digest{};
  const char* expected = "must be the 64 hex digits that sha256sum prints for the key";
  if (text.size() != 64) throw InvalidArgument("key_sha256", expected);
  for (size_t i = 0; i < 64; ++i) {
    const int digit = hex_digit(text[i]);
    if (digit < 0) throw InvalidArgument("key_sha256", expected);
    digest[i / 2] = static_cast<uint8_t>(digest[i / 2] << 4 | digit);
  }
  return digest;
}

void check_name(const std::string& name) {
  const bool good = !name.empty() && name.size() <= 64 && std::ranges::all_of(name, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
           c == '_' || c == '-';
  });
  if (!good) throw InvalidArgument("name", "must be 1 to 64 letters, digits, '.', '_' or '-'");
}

ApiKey parse_key(const Json& entry) {
  static constexpr const char* kFields[] = {"name",
                                            "key_sha256",
                                            "weight",
                                            "max_concurrent_requests",
                                            "max_queued_requests",
                                            "requests_per_minute",
                                            "tokens_per_minute",
                                            "admin",
                                            "shared_cache"};
  const openai::Fields fields(entry, "key");
  for (const auto& [name, value] : entry.items())
    if (std::ranges::find(kFields, name) == std::end(kFields))
      throw InvalidArgument(name.substr(0, 64), "is no field of a key");
  ApiKey key;
  key.name = fields.string("name").value_or("");
  check_name(key.name);
  key.sha256 = parse_digest(fields.string("key_sha256").value_or(""));
  key.weight = fields.number("weight").value_or(1);
  if (!(key.weight >= 0.01 && key.weight <= 1000))
    throw InvalidArgument("weight", "must be between 0.01 and 1000");
  auto limit = [&](const char* name) {
    const Json* value = fields.get(name);
    return value ? openai::to_integer(name, *value, 1, kMaxLimit) : 0;
  };
  key.max_concurrent_requests = limit("max_concurrent_requests");
  key.max_queued_requests = limit("max_queued_requests");
  key.requests_per_minute = limit("requests_per_minute");
  key.tokens_per_minute = limit("tokens_per_minute");
  key.admin = fields.boolean("admin").value_or(false);
  key.shared_cache = fields.boolean("shared_cache").value_or(false);
  return key;
}

// "Bearer KEY", the scheme in any case, as RFC 6750 and RFC 9110 have it.
std::string_view bearer_token(std::string_view header) {
  constexpr std::string_view kScheme = "bearer ";
  if (header.size() < kScheme.size()) return {};
  for (size_t i = 0; i < kScheme.size(); ++i)
    if ((header[i] >= 'A' && header[i] <= 'Z' ? header[i] + ('a' - 'A') : header[i]) != kScheme[i])
      return {};
  header.remove_prefix(kScheme.size());
  while (!header.empty() && header.front() == ' ') header.remove_prefix(1);
  while (!header.empty() && header.back() == ' ') header.remove_suffix(1);
  return header.size() <= kMaxKeyBytes ? header : std::string_view();
}

}  // namespace

std::array<uint8_t, 32> sha256(std::string_view text) {
  std::array<uint8_t, 32> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

ApiKeys ApiKeys::from_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad())
    throw InvalidArgument("--api-key-file", "cannot read '" + path + "'");
  text.resize(static_cast<size_t>(file.gcount()));
  return parse("--api-key-file: " + path, text);
}

ApiKeys ApiKeys::parse(const std::string& where, std::string_view json) {
  ApiKeys result;
  Json body;
  try {
    body = openai::parse_body(json, kMaxFileBytes);
  } catch (const Error& e) {
    throw InvalidArgument(where, e.reason());
  }
  const Json* list =
      body.is_object() && body.size() == 1 && body.contains("keys") ? &body["keys"] : nullptr;
  if (!list || !list->is_array() || list->empty() || list->size() > kMaxKeys)
    throw InvalidArgument(where, "must be {\"keys\": [...]} with 1 to 10,000 entries");
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string entry = where + ": keys[" + std::to_string(i) + "]";
    ApiKey key;
    try {
      key = parse_key((*list)[i]);
    } catch (const Error& e) {
      throw InvalidArgument(entry + "." + e.where(), e.reason());
    }
    result.append(std::move(key), entry);
  }
  return result;
}

void ApiKeys::add(const std::string& name, std::string_view key) {
  if (key.empty() || key.size() > kMaxKeyBytes || key != bearer_token("Bearer " + std::string(key)))
    throw InvalidArgument("--api-key", "must be 1 to 4096 characters without spaces around them");
  append({.name = name, .sha256 = sha256(key), .admin = true}, "--api-key");
}

void ApiKeys::append(ApiKey key, const std::string& where) {
  for (const ApiKey& other : keys_) {
    if (other.name == key.name)
      throw InvalidArgument(where, "the name '" + key.name + "' is taken");
    if (other.sha256 == key.sha256)
      throw InvalidArgument(where, "'" + key.name + "' has the same key as '" + other.name + "'");
  }
  keys_.push_back(std::move(key));
}

void ApiKeys::renew(const ApiKeys& newer) {
  for (ApiKey& key : keys_) {
    key.removed = true;
    key.sha256 = {};
  }
  for (const ApiKey& key : newer.keys_) {
    const auto known = std::ranges::find(keys_, key.name, &ApiKey::name);
    if (known != keys_.end())
      *known = key;
    else
      keys_.push_back(key);
  }
}

std::optional<size_t> ApiKeys::find(std::string_view authorization) const {
  const std::array<uint8_t, 32> digest = sha256(bearer_token(authorization));
  std::optional<size_t> found;
  for (size_t i = 0; i < keys_.size(); ++i)  // all of them, whichever it is
    if (CRYPTO_memcmp(keys_[i].sha256.data(), digest.data(), digest.size()) == 0 &&
        !keys_[i].removed)
      found = i;
  if (bearer_token(authorization).empty()) return std::nullopt;
  return found;
}

// The name is a key's own and holds no newline, so no request's salt can reach another's prefixes.
std::string ApiKeys::cache_salt(size_t key, const std::string& salt) const {
  if (!required()) return salt;
  const ApiKey& k = keys_[key];
  return (k.shared_cache ? std::string("shared") : "key " + k.name) + "\n" + salt;
}

}  // namespace nanovllm
