// What the binary carries is what lies in the source tree.
#include "server/embedded_files.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace nanovllm {
namespace {

TEST(EmbeddedFiles, AreTheFiles) {
  ASSERT_FALSE(embedded_files().empty());
  for (const EmbeddedFile& embedded : embedded_files()) {
    const std::string path = NANO_VLLM_SOURCE_DIR "/src/server/" + std::string(embedded.name);
    std::ifstream file(path, std::ios::binary);
    std::ostringstream bytes;
    bytes << file.rdbuf();
    ASSERT_FALSE(bytes.str().empty()) << path;
    EXPECT_TRUE(bytes.str() == embedded.bytes) << path;
    EXPECT_EQ(find_embedded_file(embedded.name), &embedded);
  }
  EXPECT_EQ(find_embedded_file("no such file"), nullptr);
}

}  // namespace
}  // namespace nanovllm
