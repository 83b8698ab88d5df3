// A repository of a hub that speaks Hugging Face's API: its name, the list of its files, and
// fetching them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hub/http_client.h"
#include "hub/hub.h"

namespace nanovllm {

// "org/name", "org/name@revision", "org/name:file.gguf" or all three. One part alone ("name") is
// possible, too.
struct RepositoryName {
  std::string repository, revision = "main", file;

  // Its folder in the cache.
  std::string folder() const;
  std::string text() const;  // as the user writes it
};
// nullopt if the text cannot be such a name.
std::optional<RepositoryName> parse_repository_name(const std::string& text);

struct RemoteFile {
  std::string name;
  std::optional<int64_t> size;
  std::string sha256, git_sha1;  // lower-case hex; empty: not stated
};

// The files that make up the model: those that match `include` (or `only`, a file's name), else
// what the engine reads. Throws Error if that is nothing, or several .gguf files between which the
// user has to choose.
std::vector<RemoteFile> choose_files(const std::vector<RemoteFile>& all, const RepositoryName& name,
                                     const std::vector<std::string>& include);

// Parses the hub's answer about a repository; `where` is for messages. Throws Error for a name that
// is not safe.
std::vector<RemoteFile> parse_file_list(const std::string& json, const std::string& where);

// The fetched model in the cache: a folder, or its only .gguf file. nullopt if it has not been
// fetched; Error if fetching was not finished.
std::optional<std::string> find_pulled(const RepositoryName& name);

PullResult pull_repository(const RepositoryName& name, const PullOptions& options,
                           const ProgressCallback& progress);

}  // namespace nanovllm
