// Fetching the files of a hub repository, and the record of what is complete.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "formats/json.h"
#include "formats/text.h"
#include "hub/files.h"
#include "hub/repository.h"

namespace nanovllm {
namespace {

using nlohmann::json;

constexpr size_t kMaxListBytes = 32 << 20;
constexpr int64_t kMaxUnstatedBytes = int64_t{1}
                                      << 42;  // of a file whose size the hub does not tell
constexpr int kMaxAttempts = 5;

std::string endpoint() {
  const char* variable = std::getenv("HF_ENDPOINT");
  std::string url = variable && *variable ? variable : "https://huggingface.co";
  while (url.ends_with('/')) url.pop_back();
  if (!url.starts_with("http://") && !url.starts_with("https://"))
    throw InvalidArgument("HF_ENDPOINT", "'" + url + "' does not begin with http:// or https://");
  return url;
}

std::string token() {
  const char* variable = std::getenv("HF_TOKEN");
  return variable ? variable : "";
}

// Reads as a refusal of the hub: what, and what to do about it.
std::string status_reason(long status) {
  const std::string code = " (HTTP status " + std::to_string(status) + ")";
  if (status == 401 || status == 403)
    return "the hub refuses" + code +
           ": it does not exist, or is private or gated; HF_TOKEN gives access to those";
  if (status == 404) return "the hub has no such thing" + code;
  if (status == 429) return "the hub asks to wait" + code;
  return "the hub answers with an error" + code;
}

// ---- the record: which files of the folder are complete, and the hash each was checked against
// ---------------------- .pulled.json: {"files": {NAME: HASH}}. Written last, by rename, so a
// folder without a file in it has to be fetched again.

using Record = std::map<std::string, std::string>;

std::string record_path(const std::string& folder) { return folder + "/.pulled.json"; }

Record read_record(const std::string& folder) {
  Record record;
  if (!file_size(record_path(folder))) return record;
  const json document = read_json_file(record_path(folder));
  const auto files = document.is_object() ? document.find("files") : document.end();
  if (files == document.end() || !files->is_object())
    throw Error(record_path(folder), "has no \"files\"");
  for (const auto& [name, hash] : files->items()) {
    if (!hash.is_string() || !is_safe_relative_path(name))
      throw Error(record_path(folder), "has a bad entry");
    if (file_size(folder + "/" + name)) record[name] = hash.get<std::string>();
  }
  return record;
}

void write_record(const std::string& folder, const Record& record) {
  const std::string path = record_path(folder), fresh = path + ".new";
  std::ofstream out(fresh, std::ios::trunc);
  out << json({{"files", record}}).dump(1) << "\n";
  out.close();
  if (!out) throw Error(fresh, "cannot be written: " + std::string(std::strerror(errno)));
  if (std::rename(fresh.c_str(), path.c_str()) != 0) throw Error(path, std::strerror(errno));
}

// ---- one file
// -----------------------------------------------------------------------------------------------------------

std::string header(const HttpResponse& response, const char* name) {
  const auto it = response.headers.find(name);
  if (it == response.headers.end()) return "";
  std::string value = it->second;
  if (value.starts_with("W/")) value.erase(0, 2);
  if (value.size() >= 2 && value.front() == '"' && value.back() == '"')
    value = value.substr(1, value.size() - 2);
  return value;
}

// Fills what the list of files did not state from the answer's headers. The hub's ETag is the
// SHA-256 of a large file and git's id of a small one; other servers' ETags have other lengths.
void complete_from_headers(const HttpResponse& response, RemoteFile* file) {
  for (const char* name : {"x-linked-etag", "etag"}) {
    const std::string tag = header(response, name);
    const bool hex = tag.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!hex || !file->sha256.empty() || !file->git_sha1.empty()) continue;
    if (tag.size() == 64) file->sha256 = tag;
    if (tag.size() == 40) file->git_sha1 = tag;
  }
  const std::string size = header(response, "x-linked-size");
  if (!file->size && !size.empty() && size.size() < 16 &&
      size.find_first_not_of("0123456789") == std::string::npos)
    file->size = std::stoll(size);
}

std::string stated_hash(const RemoteFile& file) {
  return file.sha256.empty() ? file.git_sha1 : file.sha256;
}

// Empty if the file at `path` is what the hub states, as far as it states anything.
std::string mismatch(const std::string& path, const RemoteFile& file,
                     const ProgressCallback& progress) {
  const int64_t size = file_size(path).value_or(-1);
  if (file.size && size != *file.size) {
    return "it has " + std::to_string(size) + " bytes, the hub states " +
           std::to_string(*file.size);
  }
  if (!file.sha256.empty()) {
    const std::string hash = sha256_of_file(path, progress);
    if (hash != file.sha256) return "its SHA-256 is " + hash + ", the hub states " + file.sha256;
  } else if (!file.git_sha1.empty()) {
    const std::string hash = git_blob_sha1_of_file(path, progress);
    if (hash != file.git_sha1)
      return "its git hash is " + hash + ", the hub states " + file.git_sha1;
  }
  return "";
}

// The bytes fetched so far in this pull, beside those of the file in progress.
class Meter {
 public:
  Meter(const ProgressCallback& progress, int64_t total) : progress_(progress), total_(total) {}
  void begin(std::string activity) { activity_ = std::move(activity); }
  bool update(int64_t bytes_of_file) const {
    return !progress_ || progress_({activity_, finished_ + bytes_of_file, total_});
  }
  void finish(int64_t bytes_of_file) { finished_ += bytes_of_file; }
  const ProgressCallback& callback() const { return progress_; }

 private:
  const ProgressCallback& progress_;
  std::string activity_;
  int64_t finished_ = 0, total_ = 0;
};

void pause_before_retry(int attempt, const std::string& path, const Meter& meter,
                        int64_t bytes_of_file) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(250 << attempt);
  while (std::chrono::steady_clock::now() < until) {
    if (!meter.update(bytes_of_file))
      throw Cancelled(path, "interrupted; the next pull goes on from here");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

// Fetches into path.incomplete and renames. Goes on after a lost connection; a partial file of an
// earlier pull that turns out to be of another version is fetched once more from its beginning.
// Returns the bytes that came over the network.
int64_t fetch_file(HttpClient& client, const std::string& url, const std::string& path,
                   RemoteFile* file, Meter* meter) {
  const std::string partial = path + ".incomplete";
  int64_t fetched = 0, furthest = 0;
  for (int attempt = 1;; ++attempt) {
    int64_t before = file_size(partial).value_or(0);
    if (file->size && before > *file->size) {
      std::remove(partial.c_str());
      before = 0;
    }
    // A file that is all there but unchecked is not asked for again: the range would be empty.
    const bool all_there = before > 0 && file->size && before == *file->size;
    if (!all_there) {
      try {
        const HttpResponse response =
            client.download(url, partial, file->size.value_or(kMaxUnstatedBytes),
                            [&](int64_t bytes) { return meter->update(bytes); });
        if (response.status == 416 && before > 0 && attempt < kMaxAttempts) {
          std::remove(partial.c_str());
          continue;
        }
        const bool busy = response.status == 429 || response.status >= 500;
        if (busy && attempt < kMaxAttempts) {
          pause_before_retry(attempt, path, *meter, before);
          continue;
        }
        if (response.status != 200 && response.status != 206) {
          if (before == 0) std::remove(partial.c_str());
          throw Error(url, status_reason(response.status));
        }
        complete_from_headers(response, file);
        if (response.status == 200) before = 0;
      } catch (const ConnectionLost&) {
        const int64_t now = file_size(partial).value_or(0);
        fetched += std::max<int64_t>(0, now - before);
        if (now > furthest) attempt = 1;  // it moves: as many attempts as it takes
        furthest = std::max(furthest, now);
        if (attempt >= kMaxAttempts) throw;
        pause_before_retry(attempt, path, *meter, now);
        continue;
      }
    }
    const int64_t size = file_size(partial).value_or(0);
    fetched += std::max<int64_t>(0, size - before);
    const std::string wrong = mismatch(partial, *file, meter->callback());
    if (!wrong.empty()) {
      std::remove(partial.c_str());
      if (before > 0 && attempt < kMaxAttempts)
        continue;  // begun by an earlier pull, perhaps of another version
      throw Error(url, wrong + "; the file was deleted");
    }
    if (std::rename(partial.c_str(), path.c_str()) != 0) throw Error(path, std::strerror(errno));
    meter->finish(size);
    return fetched;
  }
}

std::vector<RemoteFile> list_files(HttpClient& client, const RepositoryName& name,
                                   const std::string& hub) {
  const std::string base = hub + "/api/models/" + url_escape(name.repository, true);
  const std::string url = base + "/revision/" + url_escape(name.revision, false) + "?blobs=true";
  HttpResponse response = client.get(url, kMaxListBytes);
  // Mirrors may know only the address without a revision.
  if (response.status == 404 && name.revision == "main")
    response = client.get(base + "?blobs=true", kMaxListBytes);
  const std::string where = name.text() + " at " + hub;
  if (response.status == 404) {
    throw Error(where, "no such repository" +
                           (name.revision == "main" ? "" : " or revision " + quote(name.revision)) +
                           " (HTTP status 404)");
  }
  if (response.status != 200) throw Error(where, status_reason(response.status));
  return parse_file_list(response.body, where);
}

}  // namespace

std::optional<std::string> find_pulled(const RepositoryName& name) {
  const std::string folder = name.folder();
  if (!std::filesystem::is_directory(folder)) return std::nullopt;
  const Record record = read_record(folder);
  if (!name.file.empty()) {
    if (!record.count(name.file)) return std::nullopt;
    return folder + "/" + name.file;
  }
  std::vector<std::string> gguf;
  bool weights = false;
  for (const auto& [file, hash] : record) {
    if (file.ends_with(".gguf")) gguf.push_back(file);
    weights |= file.ends_with(".safetensors");
  }
  if (weights) return folder;
  if (gguf.size() == 1) return folder + "/" + gguf[0];
  if (gguf.size() > 1) {
    std::string names;
    for (const std::string& file : gguf)
      names += (names.empty() ? "" : ", ") + name.text() + ":" + file;
    throw Error(name.text(), "several of its .gguf files have been fetched; name one: " + names);
  }
  throw Error(name.text(),
              "has been fetched only in part; `nano-vllm pull " + name.text() + "` goes on");
}

PullResult pull_repository(const RepositoryName& name, const PullOptions& options,
                           const ProgressCallback& progress) {
  const std::string hub = endpoint();
  HttpClient client(token());
  std::vector<RemoteFile> files =
      choose_files(list_files(client, name, hub), name, options.include);

  const std::string folder = name.folder();
  make_folders(folder);
  const FileLock lock(folder + "/.lock", progress);
  Record record = read_record(folder);
  PullResult result;
  std::vector<RemoteFile*> wanted;
  int64_t total = 0, needed = 0;
  for (RemoteFile& file : files) {
    result.files.push_back(file.name);
    const std::string path = folder + "/" + file.name;
    const auto known = record.find(file.name);
    const std::string hash = stated_hash(file);
    const bool recorded = known != record.end() && !hash.empty() && known->second == hash &&
                          (!file.size || file_size(path) == file.size);
    // Complete, but the pull ended before the record was written.
    const bool unrecorded = known == record.end() && !hash.empty() && file_size(path) &&
                            mismatch(path, file, progress).empty();
    if (unrecorded) record[file.name] = hash;
    if (recorded || unrecorded) continue;
    wanted.push_back(&file);
    total += file.size.value_or(0);
    needed +=
        std::max<int64_t>(0, file.size.value_or(0) - file_size(path + ".incomplete").value_or(0));
  }
  check_free_space(folder, needed);
  if (!wanted.empty()) {
    // Until all is there the folder must not pass for a model, half of it an older version.
    for (const RemoteFile* file : wanted) record.erase(file->name);
    Record without_weights;
    for (const auto& [file, hash] : record) {
      if (!file.ends_with(".safetensors") || name.file.ends_with(".gguf"))
        without_weights[file] = hash;
    }
    write_record(folder, without_weights);
  }
  Meter meter(progress, total);
  for (size_t i = 0; i < wanted.size(); ++i) {
    RemoteFile& file = *wanted[i];
    const std::string path = folder + "/" + file.name;
    make_folders(std::filesystem::path(path).parent_path().string());
    meter.begin("fetching " + file.name + " (" + std::to_string(i + 1) + " of " +
                std::to_string(wanted.size()) + ")");
    const std::string url = hub + "/" + url_escape(name.repository, true) + "/resolve/" +
                            url_escape(name.revision, false) + "/" + url_escape(file.name, true);
    result.bytes_fetched += fetch_file(client, url, path, &file, &meter);
    record[file.name] = stated_hash(file);
  }
  write_record(folder, record);
  const std::string one = !name.file.empty()         ? name.file
                          : result.files.size() == 1 ? result.files[0]
                                                     : "";
  result.path = one.ends_with(".gguf") ? folder + "/" + one : folder;
  return result;
}

}  // namespace nanovllm
