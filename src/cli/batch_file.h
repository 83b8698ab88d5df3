// The two files of run-batch. LineReader reads requests piece by piece; ResultFile holds the
// answers and knows which requests an earlier, interrupted run has already answered.
//
// Invariant of ResultFile: what lies in the file is whole lines. A line is written in one go and
// taken back if that fails, and a partial last line (the machine went down) is cut off when the
// file is opened again.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nanovllm::cli {

struct InputLine {
  int64_t number = 0;      // from 1, blank lines counted
  std::string text;        // without the newline
  bool too_long = false;   // text was dropped
  bool terminated = true;  // false: the file ends without a newline
};

class LineReader {
 public:
  enum class Outcome { kLine, kEnd, kNotYet };

  // path "-" is stdin. Lines of more than max_line bytes are skipped and marked. Throws Error.
  LineReader(const std::string& path, size_t max_line);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line that is not blank. kNotYet: nothing has arrived on a pipe (only if !wait), or a
  // signal came.
  Outcome next(InputLine* line, bool wait);
  int64_t offset() const { return offset_; }  // bytes up to the end of the last line given out
  bool is_regular_file() const { return regular_; }
  bool is_same_file(const std::string& path) const;

 private:
  bool take_line(InputLine* line, size_t end);

  const std::string path_;
  const size_t max_line_;
  int fd_ = -1;
  bool regular_ = false, end_ = false, dropping_ = false;
  std::string buffer_;
  size_t begin_ = 0;                            // of what is left of buffer_
  int64_t number_ = 0, offset_ = 0, base_ = 0;  // base_: bytes before buffer_
};

// Identifies a request by its line: FNV-1a of the text.
uint64_t hash_line(std::string_view text);

class ResultFile {
 public:
  // path "-" is stdout, which holds no earlier results. Throws Error: cannot be opened, is in use
  // by another run, or holds something else than results.
  ResultFile(const std::string& path, bool overwrite);
  ~ResultFile();
  ResultFile(const ResultFile&) = delete;
  ResultFile& operator=(const ResultFile&) = delete;

  // The "id" of a line's result. It carries the line's number and hash, so that a resumed run finds
  // it again.
  static std::string result_id(const InputLine& line);

  // Throws Error if the file holds this line's result and the line has changed since.
  void check_unchanged(const InputLine& line) const;
  // Whether the file holds this line's result; asked once for each line, in order. Results written
  // by other programs are matched by custom_id: the k-th result of an id answers the k-th line of
  // that id. Throws as check_unchanged.
  bool is_done(const InputLine& line);
  int64_t num_done() const { return num_done_; }

  // Appends one line and its newline. Throws Error, with the file as it was before, if the disk is
  // full.
  void write(const std::string& line);

 private:
  void read_results();

  const std::string path_;
  int fd_ = -1;
  bool stdout_ = false, regular_ = false;
  int64_t size_ = 0, num_done_ = 0;
  std::unordered_map<int64_t, uint64_t> done_;        // line number -> hash
  std::unordered_map<std::string, int64_t> foreign_;  // custom_id -> results not matched yet
};

}  // namespace nanovllm::cli
