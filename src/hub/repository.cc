#include "hub/repository.h"

#include <fnmatch.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "formats/json.h"
#include "formats/text.h"
#include "hub/files.h"

namespace nanovllm {
namespace {

using nlohmann::json;

constexpr size_t kMaxFiles = 100'000;
constexpr uint64_t kMaxFileBytes = uint64_t{1} << 50;

bool is_hex(const std::string& text, size_t length) {
  return text.size() == length && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// What the engine reads beside the weights.
constexpr const char* kSmallFiles[] = {"config.json",        "generation_config.json",
                                       "tokenizer.json",     "tokenizer_config.json",
                                       "tokenizer.model",    "special_tokens_map.json",
                                       "added_tokens.json",  "chat_template.jinja",
                                       "chat_template.json", "model.safetensors.index.json"};

bool matches(const std::string& name, const std::vector<std::string>& globs) {
  return std::any_of(globs.begin(), globs.end(), [&](const std::string& glob) {
    return fnmatch(glob.c_str(), name.c_str(), 0) == 0;
  });
}

std::string some_of(const std::vector<RemoteFile>& files) {
  std::string names;
  for (size_t i = 0; i < files.size(); ++i) {
    if (i == 12) return names + ", ...";
    names += (i ? ", " : "") + files[i].name;
  }
  return names;
}

std::string string_or_empty(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

std::optional<int64_t> size_or_none(const json& object, const std::string& where) {
  const auto it = object.find("size");
  if (it == object.end() || it->is_null()) return std::nullopt;
  if (!it->is_number_unsigned() || it->get<uint64_t>() > kMaxFileBytes)
    throw Error(where, "states an absurd size");
  return it->get<int64_t>();
}

}  // namespace

std::vector<RemoteFile> parse_file_list(const std::string& text, const std::string& where) {
  const json document = parse_json(text, where, 32);
  const auto siblings = document.is_object() ? document.find("siblings") : document.end();
  if (siblings == document.end() || !siblings->is_array())
    throw Error(where, "the answer has no \"siblings\" list");
  if (siblings->size() > kMaxFiles)
    throw Error(where, "the repository has more than 100,000 files");
  std::vector<RemoteFile> files;
  for (const json& entry : *siblings) {
    RemoteFile file;
    if (entry.is_object()) file.name = string_or_empty(entry, "rfilename");
    if (file.name.empty()) throw Error(where, "an entry of \"siblings\" has no \"rfilename\"");
    if (!is_safe_relative_path(file.name))
      throw Error(where,
                  "lists the unsafe file name " + quote(file.name) + "; nothing was fetched");
    const std::string at = where + ": file " + quote(file.name);
    file.size = size_or_none(entry, at);
    if (const auto lfs = entry.find("lfs"); lfs != entry.end() && lfs->is_object()) {
      file.sha256 = string_or_empty(*lfs, "sha256");
      if (const auto size = size_or_none(*lfs, at)) file.size = size;
    } else {
      file.git_sha1 = string_or_empty(entry, "blobId");
    }
    if (!is_hex(file.sha256, 64)) file.sha256.clear();
    if (!is_hex(file.git_sha1, 40)) file.git_sha1.clear();
    files.push_back(std::move(file));
  }
  return files;
}

std::vector<RemoteFile> choose_files(const std::vector<RemoteFile>& all, const RepositoryName& name,
                                     const std::vector<std::string>& include) {
  std::vector<RemoteFile> chosen, weights, gguf;
  bool single = false, index = false;
  for (const RemoteFile& file : all) {
    if (file.name.ends_with(".gguf")) gguf.push_back(file);
    single |= file.name == "model.safetensors";
    index |= file.name == "model.safetensors.index.json";
  }
  const std::string offer = gguf.empty() ? "" : "; it has " + some_of(gguf);
  if (!name.file.empty()) {
    for (const RemoteFile& file : all) {
      if (file.name == name.file) chosen.push_back(file);
    }
    if (chosen.empty()) throw Error(name.text(), "the repository has no such file" + offer);
    return chosen;
  }
  if (!include.empty()) {
    for (const RemoteFile& file : all) {
      if (file.name[0] != '.' && matches(file.name, include)) chosen.push_back(file);
    }
    if (chosen.empty()) throw Error(name.text(), "no file matches --include" + offer);
    return chosen;
  }
  if (single || index) {
    for (const RemoteFile& file : all) {
      // Beside shards, some repositories keep the same weights once more as
      // consolidated.*.safetensors.
      const bool shard = !single && file.name.ends_with(".safetensors") &&
                         file.name.find('/') == std::string::npos &&
                         !file.name.starts_with("consolidated");
      const bool small = std::any_of(std::begin(kSmallFiles), std::end(kSmallFiles),
                                     [&](const char* known) { return file.name == known; });
      if (shard || small || (single && file.name == "model.safetensors")) chosen.push_back(file);
    }
    return chosen;
  }
  if (gguf.size() == 1) return gguf;
  if (gguf.empty()) throw Error(name.text(), "has neither model.safetensors nor a .gguf file");
  throw Error(name.text(), "has several .gguf files; name one, as in " + name.text() + ":" +
                               gguf[0].name + offer);
}

std::optional<RepositoryName> parse_repository_name(const std::string& text) {
  RepositoryName name;
  std::string rest = text;
  if (const size_t colon = rest.find(':'); colon != std::string::npos) {
    name.file = rest.substr(colon + 1);
    rest.erase(colon);
    if (!is_safe_relative_path(name.file) || name.file[0] == '.') return std::nullopt;
  }
  constexpr char kLetters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  if (const size_t at = rest.find('@'); at != std::string::npos) {
    name.revision = rest.substr(at + 1);
    rest.erase(at);
    const bool letters =
        name.revision.find_first_not_of(std::string(kLetters) + "/") == std::string::npos;
    if (!letters || !is_safe_relative_path(name.revision) || name.revision.size() > 100)
      return std::nullopt;
  }
  name.repository = rest;
  // As the hub itself: one or two parts, no "--" (which separates them in the cache's folder names)
  // and no "..".
  const bool letters = rest.find_first_not_of(std::string(kLetters) + "/") == std::string::npos;
  const bool parts = std::count(rest.begin(), rest.end(), '/') <= 1 && is_safe_relative_path(rest);
  if (!letters || !parts || rest.size() > 200 || rest.find("--") != std::string::npos ||
      rest.find("..") != std::string::npos || rest[0] == '.' || rest[0] == '-' ||
      rest.find("/.") != std::string::npos)
    return std::nullopt;
  return name;
}

std::string RepositoryName::folder() const {
  std::string name = repository;
  if (const size_t slash = name.find('/'); slash != std::string::npos) name.replace(slash, 1, "--");
  if (revision != "main") name.append("@").append(url_escape(revision, false));
  return cache_folder() + "/hub/" + name;
}

std::string RepositoryName::text() const {
  return repository + (revision == "main" ? "" : "@" + revision) + (file.empty() ? "" : ":" + file);
}

}  // namespace nanovllm
