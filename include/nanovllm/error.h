// The one exception type of the library.
//
// Thrown for everything a user can cause: a file that cannot be read, a value out of range, a model
// that is not supported. It carries where (file, tensor, key, field or flag) and what (the reason),
// and what() reads "where: what". Caught at the edges only: main, an HTTP handler, the Python
// binding.
#pragma once

#include <stdexcept>
#include <string>

namespace nanovllm {

class Error : public std::runtime_error {
 public:
  Error(std::string where, std::string what)
      : std::runtime_error(where + ": " + what),
        where_(std::move(where)),
        reason_(std::move(what)) {}

  const std::string& where() const {
    return where_;
  }  // e.g. "model.safetensors: tensor 'lm_head.weight'"
  const std::string& reason() const {
    return reason_;
  }  // e.g. "ends 12 bytes past the end of the file"

 private:
  std::string where_, reason_;
};

// A value the user chose (a flag, a request field) is wrong. The command line exits with 2 instead
// of 1 and a server answers 400 for these.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

}  // namespace nanovllm
