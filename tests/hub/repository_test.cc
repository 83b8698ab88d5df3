#include "hub/repository.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "hub/files.h"
#include "hub/http_client.h"
#include "hub/process.h"
#include "hub/short_names.h"

namespace nanovllm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

TEST(RepositoryName, Parts) {
  const auto name = parse_repository_name("org/name@refs/pr/1:sub/file.gguf");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->repository, "org/name");
  EXPECT_EQ(name->revision, "refs/pr/1");
  EXPECT_EQ(name->file, "sub/file.gguf");
  EXPECT_EQ(name->text(), "org/name@refs/pr/1:sub/file.gguf");
  EXPECT_EQ(parse_repository_name("gpt2")->revision, "main");
}

TEST(RepositoryName, RefusesWhatCouldLeaveTheCache) {
  for (const char* text :
       {"",        "/",    "/a",       "a/",     "a//b",      "a/b/c",  "..",          "../a",
        "a/..",    "./a",  "a/.b",     "-a/b",   "a b",       "a--b/c", "a/b@",        "a/b@../c",
        "a/b@c d", "a/b:", "a/b:../c", "a/b:/c", "a/b:.lock", "a\nb",   "a/b@x:y/../z"}) {
    EXPECT_FALSE(parse_repository_name(text)) << text;
  }
}

TEST(RepositoryName, FoldersOfDifferentNamesDiffer) {
  setenv("NANO_VLLM_CACHE", "/c", 1);
  EXPECT_EQ(parse_repository_name("a/b")->folder(), "/c/hub/a--b");
  EXPECT_EQ(parse_repository_name("a/b@v/2")->folder(), "/c/hub/a--b@v%2F2");
  EXPECT_EQ(parse_repository_name("a/b@v-2")->folder(), "/c/hub/a--b@v-2");
}

TEST(SafePath, OnlyNamesBelowTheFolder) {
  for (const char* name : {"a", "a/b", "a.b/c..d", "..a", ".a"})
    EXPECT_TRUE(is_safe_relative_path(name)) << name;
  for (const char* name :
       {"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\\b", "a\nb", "a\x7f"}) {
    EXPECT_FALSE(is_safe_relative_path(name)) << name;
  }
  EXPECT_FALSE(is_safe_relative_path(std::string(300, 'a')));  // longer than a file system takes
}

TEST(FileList, SizesAndHashes) {
  const std::string sha256(64, 'a'), sha1(40, 'b');
  const auto files = parse_file_list(R"({"siblings":[{"rfilename":"w","size":130,"blobId":")" +
                                         sha1 + R"(","lfs":{"sha256":")" + sha256 +
                                         R"(","size":7}},{"rfilename":"c","size":5,"blobId":")" +
                                         sha1 + R"("},{"rfilename":"x","blobId":"nonsense"}]})",
                                     "list");
  ASSERT_EQ(files.size(), 3u);
  EXPECT_EQ(files[0].size, 7);
  EXPECT_EQ(files[0].sha256, sha256);
  EXPECT_EQ(files[0].git_sha1, "");  // that of the pointer, not of the content
  EXPECT_EQ(files[1].git_sha1, sha1);
  EXPECT_EQ(files[2].size, std::nullopt);
  EXPECT_EQ(files[2].git_sha1, "");
}

std::vector<std::string> chosen(std::vector<std::string> names,
                                const std::string& repository = "a/b",
                                const std::vector<std::string>& include = {}) {
  std::vector<RemoteFile> files;
  for (std::string& name : names) files.push_back({std::move(name), {}, "", ""});
  std::vector<std::string> result;
  for (const RemoteFile& file : choose_files(files, *parse_repository_name(repository), include))
    result.push_back(file.name);
  return result;
}

TEST(ChooseFiles, WhatTheEngineReads) {
  EXPECT_THAT(chosen({"config.json", "README.md", "model.safetensors", "model.fp16.safetensors",
                      "tokenizer.json", "x/config.json"}),
              ElementsAre("config.json", "model.safetensors", "tokenizer.json"));
  EXPECT_THAT(chosen({"model.safetensors.index.json", "model-1.safetensors",
                      "consolidated.safetensors", "x/model-2.safetensors"}),
              ElementsAre("model.safetensors.index.json", "model-1.safetensors"));
  EXPECT_THAT(chosen({"README.md", "m.gguf"}), ElementsAre("m.gguf"));
  EXPECT_THAT(chosen({"a.gguf", "b.gguf"}, "a/b:b.gguf"), ElementsAre("b.gguf"));
  EXPECT_THAT(chosen({"a.gguf", "b.gguf", ".git"}, "a/b", {"*.gguf", ".*"}),
              UnorderedElementsAre("a.gguf", "b.gguf"));
  EXPECT_THROW(chosen({"a.gguf", "b.gguf"}), Error);
  EXPECT_THROW(chosen({"pytorch_model.bin"}), Error);
  EXPECT_THROW(chosen({"a.gguf"}, "a/b:c.gguf"), Error);
}

TEST(UrlEscape, KeepsNamesAndEscapesTheRest) {
  EXPECT_EQ(url_escape("a/b c?#%\xc3\xa4", true), "a/b%20c%3F%23%25%C3%A4");
  EXPECT_EQ(url_escape("refs/pr/1", false), "refs%2Fpr%2F1");
}

TEST(Hashes, OfKnownContent) {
  const std::string path = ::testing::TempDir() + "/nano_vllm_hash";
  FILE* file = fopen(path.c_str(), "w");
  fputs("hello\n", file);
  fclose(file);
  // sha256sum and git hash-object
  EXPECT_EQ(sha256_of_file(path),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
  EXPECT_EQ(git_blob_sha1_of_file(path), "ce013625030ba8dba906f756967f9e9ca394464a");
  EXPECT_THROW(sha256_of_file(path, [](const TransferProgress&) { return false; }), Cancelled);
  std::remove(path.c_str());
}

TEST(Process, ExitCodesErrorsEnvironmentAndStopping) {
  const auto go = [] { return true; };
  ProcessResult result = run_process({"sh", "-c", "echo $WORD >&2; exit 3"}, {"WORD=hello"}, go);
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.errors, "hello\n");
  EXPECT_TRUE(run_process({"nano-vllm-no-such-program"}, {}, go).not_found);
  EXPECT_EQ(run_process({"sh", "-c", "kill -9 $$"}, {}, go).exit_code, 128 + 9);
  result = run_process({"sleep", "60"}, {}, [] { return false; });
  EXPECT_TRUE(result.stopped);
  // More than is kept does not block the program.
  result =
      run_process({"sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo end >&2"}, {}, go);
  EXPECT_LE(result.errors.size(), 64u << 10);
  EXPECT_TRUE(result.errors.ends_with("xend\n"));
}

TEST(ResolveModel, PathsShortNamesAndAdvice) {
  setenv("NANO_VLLM_CACHE", (::testing::TempDir() + "/nano_vllm_no_cache").c_str(), 1);
  EXPECT_EQ(resolve_model(::testing::TempDir()), ::testing::TempDir());
  const auto message = [](const std::string& name) -> std::string {
    try {
      resolve_model(name);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(message("./none"), "./none: no such file or folder");
  EXPECT_EQ(message("none.gguf"), "none.gguf: no such file or folder");
  EXPECT_THAT(message("smollm"), HasSubstr("smollm2-135m-instruct"));
  EXPECT_THAT(message("org/name"), HasSubstr("nano-vllm pull org/name"));
  EXPECT_THROW(resolve_model(""), InvalidArgument);
  EXPECT_NE(find_short_name("smollm2-135m-instruct"), nullptr);
}

}  // namespace
}  // namespace nanovllm
