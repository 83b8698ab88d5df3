// Words for error messages about untrusted names.
#pragma once

#include <string>
#include <string_view>

namespace nanovllm {

// 'name' for a message: in single quotes, control bytes written as \xNN (a file must not drive the
// user's terminal), cut after 120 bytes.
std::string quote(std::string_view text);

}  // namespace nanovllm
