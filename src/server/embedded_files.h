// Files that the binary carries: the web page and the API's description. The build writes them into
// a source file (src/embed_files.cmake), so that the server needs nothing beside itself.
#pragma once

#include <span>
#include <string_view>

namespace nanovllm {

struct EmbeddedFile {
  std::string_view name;  // under src/server: "openapi.json"
  std::string_view bytes;
};

// By name. Any thread.
std::span<const EmbeddedFile> embedded_files();
// Null if there is none.
const EmbeddedFile* find_embedded_file(std::string_view name);

}  // namespace nanovllm
