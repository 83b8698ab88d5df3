// The key file: any bytes are either keys that keep what the header promises, or an
// InvalidArgument.
#include "server/api_keys.h"

#include <cstdint>
#include <cstdlib>
#include <set>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nanovllm;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const ApiKeys keys = ApiKeys::parse("keys.json", text);
    if (!keys.required()) std::abort();
    std::set<std::string> names;
    for (size_t i = 0; i < keys.keys().size(); ++i) {
      const ApiKey& key = keys.keys()[i];
      if (!names.insert(key.name).second || key.name.find('\n') != std::string::npos) std::abort();
      if (!(key.weight > 0) || key.tokens_per_minute < 0) std::abort();
      if (key.shared_cache != keys.cache_salt(i, "").starts_with("shared\n")) std::abort();
    }
  } catch (const InvalidArgument&) {
  }
  ApiKeys one;
  one.add("one", "secret");
  if (one.find(text).has_value() && text.find("secret") == std::string_view::npos) std::abort();
  return 0;
}
