#include "cli/batch_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "cli/cli.h"
#include "server/openai_json.h"

namespace nanovllm::cli {
namespace {

constexpr size_t kMaxResultLine = size_t{1} << 30;  // logprobs of a long prompt take a lot of room
constexpr std::string_view kIdPrefix = "nano-vllm-";

// "nano-vllm-<line number>-<hash>"; false if the id is another program's.
bool parse_result_id(std::string_view id, int64_t* number, uint64_t* hash) {
  if (!id.starts_with(kIdPrefix)) return false;
  const std::string rest(id.substr(kIdPrefix.size()));
  int end = 0;
  return sscanf(rest.c_str(), "%ld-%16lx%n", number, hash, &end) == 2 &&
         static_cast<size_t>(end) == rest.size();
}

std::string custom_id_of(const std::string& text) {
  try {
    const openai::Json json = openai::parse_body(text, kMaxResultLine);
    return openai::Fields(json, "line").string("custom_id").value_or("");
  } catch (const InvalidArgument&) {
    return "";
  }
}

}  // namespace

uint64_t hash_line(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

LineReader::LineReader(const std::string& path, size_t max_line)
    : path_(path), max_line_(max_line) {
  fd_ = path == "-" ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) throw Error(path_, std::strerror(errno));
  struct stat info {};
  regular_ = fstat(fd_, &info) == 0 && S_ISREG(info.st_mode);
  if (S_ISDIR(info.st_mode)) throw Error(path_, "is a folder");
}

LineReader::~LineReader() {
  if (fd_ > STDIN_FILENO) ::close(fd_);
}

bool LineReader::is_same_file(const std::string& path) const {
  struct stat mine {
  }, other{};
  return regular_ && fstat(fd_, &mine) == 0 && stat(path.c_str(), &other) == 0 &&
         mine.st_dev == other.st_dev && mine.st_ino == other.st_ino;
}

// The bytes up to `end` as a line; false if it is blank.
bool LineReader::take_line(InputLine* line, size_t end) {
  line->number = ++number_;
  line->too_long = dropping_ || end - begin_ > max_line_;
  line->text = line->too_long ? "" : buffer_.substr(begin_, end - begin_);
  line->terminated = end < buffer_.size();
  offset_ = base_ + static_cast<int64_t>(std::min(end + 1, buffer_.size()));
  begin_ = end + 1;
  dropping_ = false;
  if (!line->text.empty() && line->text.back() == '\r') line->text.pop_back();
  return line->too_long || line->text.find_first_not_of(" \t") != std::string::npos;
}

LineReader::Outcome LineReader::next(InputLine* line, bool wait) {
  size_t searched = begin_;
  while (true) {
    if (const size_t end = buffer_.find('\n', searched); end != std::string::npos) {
      if (take_line(line, end)) return Outcome::kLine;
      searched = begin_;
      continue;
    }
    base_ += static_cast<int64_t>(std::min(begin_, buffer_.size()));
    buffer_.erase(0, begin_);
    begin_ = 0;
    if (buffer_.size() > max_line_) {  // forget it, but remember that the line began
      base_ += static_cast<int64_t>(buffer_.size());
      buffer_.clear();
      dropping_ = true;
    }
    searched = buffer_.size();
    if (end_) {
      const bool last = !buffer_.empty() || dropping_;
      const bool useful = last && take_line(line, buffer_.size());
      buffer_.clear();
      begin_ = 0;
      return useful ? Outcome::kLine : Outcome::kEnd;
    }
    struct pollfd ready {
      fd_, POLLIN, 0
    };
    if (!regular_ && !wait && poll(&ready, 1, 0) <= 0) return Outcome::kNotYet;
    char chunk[1 << 16];
    const ssize_t n = ::read(fd_, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) return Outcome::kNotYet;
    if (n < 0) throw Error(path_, std::strerror(errno));
    if (n == 0) end_ = true;
    buffer_.append(chunk, static_cast<size_t>(n));
  }
}

ResultFile::ResultFile(const std::string& path, bool overwrite)
    : path_(path), stdout_(path == "-") {
  if (stdout_) return;
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) throw Error(path_, std::strerror(errno));
  struct stat info {};
  regular_ = fstat(fd_, &info) == 0 && S_ISREG(info.st_mode);
  if (!regular_) return;
  if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd_);
    throw Error(path_, "another run is writing to it");
  }
  if (!overwrite) read_results();
  if (ftruncate(fd_, size_) != 0) throw Error(path_, std::strerror(errno));
}

ResultFile::~ResultFile() {
  if (fd_ >= 0) ::close(fd_);
}

// Reads the results and sets size_ to the end of the last whole line. What is no result is left
// alone.
void ResultFile::read_results() {
  LineReader reader(path_, kMaxResultLine);
  InputLine line;
  auto refuse = [&] {
    throw Error(path_, fmt::format("line {} is no batch result; give another file, or --overwrite",
                                   line.number));
  };
  while (reader.next(&line, true) == LineReader::Outcome::kLine) {
    if (!line.terminated) {
      const std::string_view begin = R"({"id":")";
      if (!line.text.starts_with(begin.substr(0, line.text.size()))) refuse();
      break;  // never finished: cut off
    }
    int64_t number = 0;
    uint64_t hash = 0;
    try {
      const openai::Json json = openai::parse_body(line.text, kMaxResultLine);
      const openai::Fields fields(json, "line");
      const std::string id = fields.string("id").value_or("");
      if (id.empty() || !json.contains("custom_id")) refuse();
      if (parse_result_id(id, &number, &hash))
        done_[number] = hash;
      else
        ++foreign_[fields.string("custom_id").value_or("")];
    } catch (const InvalidArgument&) {
      refuse();
    }
    ++num_done_;
    size_ = reader.offset();
  }
}

std::string ResultFile::result_id(const InputLine& line) {
  return fmt::format("{}{}-{:016x}", kIdPrefix, line.number, hash_line(line.text));
}

void ResultFile::check_unchanged(const InputLine& line) const {
  const auto it = done_.find(line.number);
  if (it != done_.end() && it->second != hash_line(line.text))
    throw Error(
        path_,
        fmt::format(
            "holds the result of line {}, which reads differently now; give another file, or "
            "--overwrite",
            line.number));
}

bool ResultFile::is_done(const InputLine& line) {
  check_unchanged(line);
  if (done_.contains(line.number)) return true;
  if (foreign_.empty()) return false;
  const auto it = foreign_.find(custom_id_of(line.text));
  if (it == foreign_.end()) return false;
  if (--it->second == 0) foreign_.erase(it);
  return true;
}

void ResultFile::write(const std::string& line) {
  const std::string text = line + "\n";
  if (stdout_) return write_stdout(text);
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = ::write(fd_, text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const std::string reason = std::strerror(errno);
      // If even this fails, the partial line is cut off by the next run.
      if (regular_ && ftruncate(fd_, size_) != 0)
        throw Error(path_, reason + "; its last line is not whole");
      throw Error(path_, reason);
    }
    written += static_cast<size_t>(n);
  }
  size_ += static_cast<int64_t>(text.size());
}

}  // namespace nanovllm::cli
