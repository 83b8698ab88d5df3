// Flags: the command-line parser, a table of flags that one command fills and then parses.
//
// Every command shares two tables (engine flags and sampling parameters, shared_flags.h), so a flag
// has one spelling, one range and one help text. `--flag value` and `--flag=value` both work, and
// `--kv_cache_dtype` is read as
// `--kv-cache-dtype`. What the user got wrong is an InvalidArgument that names the flag, the value
// and what is allowed.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace nanovllm::cli {

class Flags {
 public:
  // flag is spelled as in the table ("--block-size"), for messages.
  using Setter = std::function<void(const std::string& flag, const std::string& value)>;
  enum class Outcome { kRun, kHelp, kVersion };

  Flags(std::string command, std::string summary);

  // The flags added from here on are listed under this title in --help.
  void heading(std::string title);
  // A paragraph at the end of --help.
  void note(std::string text);
  // The one word that belongs to no flag. Optional unless the command checks it.
  void positional(std::string name, std::string help, Setter set);

  // names: "-p,--prompt"; the last one is the name used in messages.
  void value(std::string names, std::string metavar, std::string help, Setter set);
  // As value(), but takes every word up to the next flag, one at least.
  void values(std::string names, std::string metavar, std::string help, Setter set);
  void text(std::string names, std::string metavar, std::string help, std::string* target);
  void integer(std::string names, std::string help, int64_t* target,
               int64_t min = std::numeric_limits<int64_t>::min(),
               int64_t max = std::numeric_limits<int64_t>::max());
  void number(std::string names, std::string help, double* target);
  void toggle(std::string names, std::string help, std::function<void()> set);
  void toggle(std::string names, std::string help, bool* target, bool value = true);

  // words: what follows the command's name. Setters run in the order of the words.
  Outcome parse(std::span<const std::string> words);
  std::string help() const;

 private:
  struct Flag {
    std::vector<std::string> names;
    std::string metavar, help;
    Setter set;
    bool takes_value = true, greedy = false;
    size_t heading = 0;
    const std::string& name() const { return names.back(); }
  };
  void add(std::string names, Flag flag);
  const Flag* find(const std::string& name) const;
  bool is_flag(const std::string& word) const;

  std::string command_, summary_, positional_name_, positional_help_;
  Setter positional_;
  std::vector<std::string> headings_{"Options"}, notes_;
  std::vector<Flag> flags_;
};

// Decimal text to a number in [min, max]; InvalidArgument(flag, ...) otherwise.
int64_t parse_integer(const std::string& flag, const std::string& text,
                      int64_t min = std::numeric_limits<int64_t>::min(),
                      int64_t max = std::numeric_limits<int64_t>::max());
double parse_number(const std::string& flag, const std::string& text);  // finite

}  // namespace nanovllm::cli
