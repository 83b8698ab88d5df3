#include "cli/flags.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "nanovllm/error.h"

namespace nanovllm::cli {
namespace {

std::vector<std::string> split(const std::string& names) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (begin <= names.size()) {
    size_t end = std::min(names.find(',', begin), names.size());
    parts.push_back(names.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// "--kv_cache_dtype=x" -> {"--kv-cache-dtype", "x"}; only the name is rewritten.
std::pair<std::string, size_t> flag_name(const std::string& word) {
  size_t equals = word.starts_with("--") ? word.find('=') : std::string::npos;
  std::string name = word.substr(0, equals);
  if (name.starts_with("--")) std::replace(name.begin(), name.end(), '_', '-');
  return {name, equals};
}

// The help text, wrapped: 100 columns, continued at `indent`.
std::string wrapped(const std::string& text, size_t indent, size_t column) {
  std::string out;
  size_t begin = 0;
  while (begin < text.size()) {
    size_t end = std::min(text.find(' ', begin), text.size());
    if (column > indent && column + (end - begin) + 1 > 100) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out.append(text, begin, end - begin);
    column += end - begin;
    begin = end + 1;
  }
  return out;
}

}  // namespace

Flags::Flags(std::string command, std::string summary)
    : command_(std::move(command)), summary_(std::move(summary)) {}

void Flags::heading(std::string title) { headings_.push_back(std::move(title)); }
void Flags::note(std::string text) { notes_.push_back(std::move(text)); }

void Flags::positional(std::string name, std::string help, Setter set) {
  positional_name_ = std::move(name);
  positional_help_ = std::move(help);
  positional_ = std::move(set);
}

void Flags::add(std::string names, Flag flag) {
  flag.names = split(names);
  flag.heading = headings_.size() - 1;
  flags_.push_back(std::move(flag));
}

void Flags::value(std::string names, std::string metavar, std::string help, Setter set) {
  add(std::move(names),
      {.metavar = std::move(metavar), .help = std::move(help), .set = std::move(set)});
}

void Flags::values(std::string names, std::string metavar, std::string help, Setter set) {
  add(std::move(names), {.metavar = std::move(metavar) + "...",
                         .help = std::move(help),
                         .set = std::move(set),
                         .greedy = true});
}

void Flags::text(std::string names, std::string metavar, std::string help, std::string* target) {
  value(std::move(names), std::move(metavar), std::move(help),
        [target](const std::string&, const std::string& v) { *target = v; });
}

void Flags::integer(std::string names, std::string help, int64_t* target, int64_t min,
                    int64_t max) {
  value(std::move(names), "N", std::move(help), [=](const std::string& flag, const std::string& v) {
    *target = parse_integer(flag, v, min, max);
  });
}

void Flags::number(std::string names, std::string help, double* target) {
  value(std::move(names), "X", std::move(help),
        [=](const std::string& flag, const std::string& v) { *target = parse_number(flag, v); });
}

void Flags::toggle(std::string names, std::string help, std::function<void()> set) {
  add(std::move(names),
      {.help = std::move(help),
       .set = [set = std::move(set)](const std::string&, const std::string&) { set(); },
       .takes_value = false});
}

void Flags::toggle(std::string names, std::string help, bool* target, bool value) {
  toggle(std::move(names), std::move(help), [=] { *target = value; });
}

const Flags::Flag* Flags::find(const std::string& name) const {
  for (const Flag& flag : flags_)
    if (std::find(flag.names.begin(), flag.names.end(), name) != flag.names.end()) return &flag;
  return nullptr;
}

bool Flags::is_flag(const std::string& word) const {
  const std::string name = flag_name(word).first;
  return find(name) || name == "--help" || name == "-h" || name == "--version" || name == "--";
}

Flags::Outcome Flags::parse(std::span<const std::string> words) {
  bool flags_end = false, positional_seen = false;
  // A request for help wins over whatever else is wrong with the line.
  for (const std::string& word : words) {
    if (word == "--") break;
    if (word == "--help" || word == "-h") return Outcome::kHelp;
    if (word == "--version") return Outcome::kVersion;
  }
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (!flags_end && word == "--") {
      flags_end = true;
      continue;
    }
    if (flags_end || word.size() < 2 || word[0] != '-') {
      if (!positional_)
        throw InvalidArgument(word, "unexpected; '" + command_ + "' takes flags only, see --help");
      if (positional_seen)
        throw InvalidArgument(
            word, "unexpected; '" + command_ + "' takes one " + positional_name_ + ", see --help");
      positional_seen = true;
      positional_(positional_name_, word);
      continue;
    }
    const auto [name, equals] = flag_name(word);
    const Flag* flag = find(name);
    if (!flag)
      throw InvalidArgument(name, "no such flag; '" + command_ + " --help' lists what there is");
    if (!flag->takes_value) {
      if (equals != std::string::npos) throw InvalidArgument(flag->name(), "takes no value");
      flag->set(flag->name(), "");
    } else if (equals != std::string::npos) {
      flag->set(flag->name(), word.substr(equals + 1));
    } else {
      if (i + 1 == words.size() || is_flag(words[i + 1]))
        throw InvalidArgument(flag->name(), "needs a value: " + flag->name() + " " + flag->metavar);
      do {
        flag->set(flag->name(), words[++i]);
      } while (flag->greedy && i + 1 < words.size() &&
               (words[i + 1].size() < 2 || words[i + 1][0] != '-'));
    }
  }
  return Outcome::kRun;
}

std::string Flags::help() const {
  constexpr size_t kColumn = 34;
  std::string out = "Usage: " + command_;
  if (positional_) out += " [" + positional_name_ + "]";
  out += " [OPTIONS]\n\n" + summary_ + "\n";
  if (positional_) {
    std::string left = "  " + positional_name_;
    left.resize(std::max(left.size() + 2, kColumn), ' ');
    out += "\nArguments:\n" + left + wrapped(positional_help_, kColumn, kColumn) + "\n";
  }
  for (size_t h = 0; h < headings_.size(); ++h) {
    bool first = true;
    for (const Flag& flag : flags_) {
      if (flag.heading != h) continue;
      if (first) out += "\n" + headings_[h] + ":\n";
      first = false;
      std::string left = "  ";
      for (const std::string& name : flag.names)
        left += (name == flag.names.front() ? "" : ", ") + name;
      if (flag.takes_value) left += " " + flag.metavar;
      if (left.size() + 2 > kColumn) {
        out += left + "\n" + std::string(kColumn, ' ');
      } else {
        left.resize(kColumn, ' ');
        out += left;
      }
      out += wrapped(flag.help, kColumn, kColumn) + "\n";
    }
  }
  out += "\n  -h, --help, --version\n";
  for (const std::string& note : notes_) out += "\n" + wrapped(note, 0, 0) + "\n";
  return out;
}

int64_t parse_integer(const std::string& flag, const std::string& text, int64_t min, int64_t max) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = !text.empty() && end == text.data() + text.size() && error == std::errc();
  if (whole && value >= min && value <= max) return value;
  std::string allowed = "an integer";
  if (min > std::numeric_limits<int64_t>::min() && max < std::numeric_limits<int64_t>::max())
    allowed += " from " + std::to_string(min) + " to " + std::to_string(max);
  else if (min > std::numeric_limits<int64_t>::min())
    allowed += " of at least " + std::to_string(min);
  throw InvalidArgument(flag, "'" + text + "' is not allowed; give " + allowed);
}

double parse_number(const std::string& flag, const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (!text.empty() && end == text.data() + text.size() && error == std::errc() &&
      std::isfinite(value))
    return value;
  throw InvalidArgument(flag, "'" + text + "' is not allowed; give a number");
}

}  // namespace nanovllm::cli
