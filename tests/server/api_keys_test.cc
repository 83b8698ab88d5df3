// The key file: what is accepted, how each mistake is named, whose key it is, whose cache.

#include "server/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nanovllm {
namespace {

// printf secret | sha256sum, printf other | sha256sum
const std::string kSecret = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
                  kOther = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa";

std::string entry(const std::string& more, const std::string& name = "alice",
                  const std::string& digest = kSecret) {
  return R"({"name": ")" + name + R"(", "key_sha256": ")" + digest + "\"" + more + "}";
}
std::string file(const std::string& entries) { return R"({"keys": [)" + entries + "]}"; }

std::string complaint(const std::string& json) {
  try {
    ApiKeys::parse("keys.json", json);
  } catch (const InvalidArgument& e) {
    return e.what();
  }
  return "accepted";
}

TEST(ApiKeys, ReadsEveryField) {
  const ApiKeys keys = ApiKeys::parse(
      "f", file(entry(R"(, "weight": 2.5, "max_concurrent_requests": 3, "max_queued_requests": 4,
                          "requests_per_minute": 5, "tokens_per_minute": 6, "admin": true,
                          "shared_cache": true)") +
                "," + entry("", "bob", kOther)));
  ASSERT_EQ(keys.keys().size(), 2u);
  const ApiKey &alice = keys.keys()[0], &bob = keys.keys()[1];
  EXPECT_EQ(alice.name, "alice");
  EXPECT_EQ(alice.weight, 2.5);
  EXPECT_EQ(alice.max_concurrent_requests, 3);
  EXPECT_EQ(alice.max_queued_requests, 4);
  EXPECT_EQ(alice.requests_per_minute, 5);
  EXPECT_EQ(alice.tokens_per_minute, 6);
  EXPECT_TRUE(alice.admin);
  EXPECT_TRUE(alice.shared_cache);
  EXPECT_EQ(bob.weight, 1);
  EXPECT_EQ(bob.max_concurrent_requests, 0);
  EXPECT_FALSE(bob.admin || bob.shared_cache);
}

TEST(ApiKeys, NamesTheEntryAndTheFieldAtFault) {
  EXPECT_EQ(complaint(file(entry(""))), "accepted");
  EXPECT_EQ(complaint(file(entry("") + "," + entry(R"(, "weight": 0)", "bob", kOther))),
            "keys.json: keys[1].weight: must be between 0.01 and 1000");
  EXPECT_THAT(complaint(file(entry(R"(, "wieght": 1)"))),
              testing::HasSubstr("keys[0].wieght: is no field of a key"));
  EXPECT_THAT(complaint(file(entry("", "a b"))), testing::HasSubstr("keys[0].name: must be"));
  EXPECT_THAT(complaint(file(entry("", ""))), testing::HasSubstr("keys[0].name: must be"));
  EXPECT_THAT(complaint(file(entry("", "alice", "secret"))),
              testing::HasSubstr("keys[0].key_sha256: must be the 64 hex digits"));
  EXPECT_THAT(complaint(file(entry(R"(, "tokens_per_minute": 0)"))),
              testing::HasSubstr("keys[0].tokens_per_minute"));
  EXPECT_THAT(complaint(file(entry(R"(, "tokens_per_minute": "60")"))),
              testing::HasSubstr("keys[0].tokens_per_minute"));
  EXPECT_THAT(complaint(file(entry("") + "," + entry("", "alice", kOther))),
              testing::HasSubstr("keys[1]: the name 'alice' is taken"));
  EXPECT_THAT(complaint(file(entry("") + "," + entry("", "bob"))),
              testing::HasSubstr("keys[1]: 'bob' has the same key as 'alice'"));
  for (const char* json : {"", "[]", "{}", R"({"keys": []})", R"({"keys": {}})",
                           R"({"keys": [], "more": 1})", "{\"keys\": [7]}", "{"})
    EXPECT_NE(complaint(json), "accepted") << json;
  EXPECT_THROW(ApiKeys::from_file("/nonexistent/keys.json"), InvalidArgument);
}

TEST(ApiKeys, FindsWhoseKeyItIs) {
  const ApiKeys keys = ApiKeys::parse("f", file(entry("") + "," + entry("", "bob", kOther)));
  EXPECT_EQ(keys.find("Bearer secret"), 0u);
  EXPECT_EQ(keys.find("Bearer other"), 1u);
  EXPECT_EQ(keys.find("bearer   secret "), 0u);
  for (const char* header : {"", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets", "secret",
                             "Basic secret", "Bearer Secret", "Bearer secret other"})
    EXPECT_EQ(keys.find(header), std::nullopt) << header;
  // The digest itself opens nothing.
  EXPECT_EQ(keys.find("Bearer " + kSecret), std::nullopt);
}

TEST(ApiKeys, PlainKeysAreAdmins) {
  ApiKeys keys;
  EXPECT_FALSE(keys.required());
  EXPECT_EQ(keys.find("Bearer secret"), std::nullopt);
  keys.add("api-key", "secret");
  EXPECT_TRUE(keys.required());
  EXPECT_EQ(keys.find("Bearer secret"), 0u);
  EXPECT_TRUE(keys.keys()[0].admin);
  EXPECT_THROW(keys.add("second", ""), InvalidArgument);
  EXPECT_THROW(keys.add("second", "secret"), InvalidArgument);
  EXPECT_THROW(keys.add("second", " padded "), InvalidArgument);
}

// Whatever salt a request names, it stays within its own key's prefixes.
TEST(ApiKeys, NoSaltReachesAnotherKeysCache) {
  const std::string third(64, 'a'), fourth(64, 'b');
  const ApiKeys keys =
      ApiKeys::parse("f", file(entry("") + "," + entry("", "bob", kOther) + "," +
                               entry(R"(, "shared_cache": true)", "carol", third) + "," +
                               entry(R"(, "shared_cache": true)", "shared", fourth)));
  EXPECT_NE(keys.cache_salt(0, "x"), keys.cache_salt(1, "x"));
  EXPECT_NE(keys.cache_salt(0, "x"), keys.cache_salt(0, "y"));
  EXPECT_EQ(keys.cache_salt(2, "x"), keys.cache_salt(3, "x"));
  EXPECT_NE(keys.cache_salt(0, "x"), keys.cache_salt(2, "x"));
  for (const std::string& salt : {std::string("key alice\n"), std::string("shared\n"),
                                  std::string("alice"), std::string("\n"), std::string()})
    for (size_t key : {1, 2, 3})
      EXPECT_NE(keys.cache_salt(key, salt), keys.cache_salt(0, "")) << salt;
  EXPECT_EQ(ApiKeys().cache_salt(0, "x"), "x");
}

TEST(ApiKeys, RenewKeepsTheIndicesOfNames) {
  const auto list = [](const std::vector<std::pair<std::string, std::string>>& entries) {
    ApiKeys keys;
    for (const auto& [name, key] : entries) keys.add(name, key);
    return keys;
  };
  ApiKeys keys = list({{"a", "1"}, {"b", "2"}, {"c", "3"}});
  keys.renew(list({{"d", "2"}, {"c", "33"}, {"a", "1"}}));
  EXPECT_EQ(keys.find("Bearer 1"), 0u);
  EXPECT_EQ(keys.find("Bearer 2"), 3u);  // the same key, but another name
  EXPECT_EQ(keys.find("Bearer 3"), std::nullopt);
  EXPECT_EQ(keys.find("Bearer 33"), 2u);
  EXPECT_TRUE(keys.keys()[1].removed);
  keys.renew(list({{"b", "4"}}));
  EXPECT_EQ(keys.find("Bearer 4"), 1u);
  EXPECT_EQ(keys.find("Bearer 1"), std::nullopt);
  EXPECT_TRUE(keys.required());
}

}  // namespace
}  // namespace nanovllm
