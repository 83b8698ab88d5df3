// The tokenizer for scripts: tokenize_lines TOKENIZER.json|FOLDER|MODEL.gguf, one JSON request a
// line on stdin, one answer a line on stdout.
//   {"hex": "68690a", "special": true}     -> {"ids": [...]}            bytes in hex, since they
//   need not be UTF-8
//   {"ids": [1, 2], "skip": false}         -> {"text": "...", "stream": ["...", ...]}
//   {"file": "path"}                       -> {"tokens": n, "seconds": s}  times one encode of a
//   whole file
//   {"vocab": true}                        -> {"size": n, "tokens": [...], "special": [...], "bos":
//   id, "eos": id}
#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "formats/gguf.h"
#include "nanovllm/error.h"
#include "tokenizer/tokenizer.h"

namespace {

using nlohmann::json;

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

json answer(const nanovllm::Tokenizer& tokenizer, const json& request) {
  if (request.contains("hex")) {
    return {{"ids", tokenizer.encode(from_hex(request["hex"]), request.value("special", true))}};
  }
  if (request.contains("ids")) {
    const auto ids = request["ids"].get<std::vector<int32_t>>();
    const bool skip = request.value("skip", false);
    nanovllm::IncrementalDetokenizer stream(tokenizer, skip);
    json pieces = json::array();
    for (const int32_t id : ids) pieces.push_back(stream.add(id));
    pieces.push_back(stream.finish());
    return {{"text", tokenizer.decode(ids, skip)}, {"stream", pieces}};
  }
  if (request.contains("file")) {
    const std::string text = read_all(request["file"]);
    const auto start = std::chrono::steady_clock::now();
    const auto ids = tokenizer.encode(text, false);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    return {{"tokens", ids.size()}, {"seconds", seconds.count()}};
  }
  json tokens = json::array(), special = json::array();
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    tokens.push_back(tokenizer.id_to_token(id));
    special.push_back(tokenizer.is_special(id));
  }
  return {{"size", tokenizer.vocab_size()},
          {"tokens", tokens},
          {"special", special},
          {"bos", tokenizer.bos_token_id().value_or(-1)},
          {"eos", tokenizer.eos_token_id().value_or(-1)}};
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::cerr << "usage: tokenize_lines TOKENIZER.json|FOLDER|MODEL.gguf\n";
    return 2;
  }
  const std::string path = argv[1];
  std::unique_ptr<nanovllm::Tokenizer> tokenizer;
  if (ends_with(path, ".gguf")) {
    tokenizer = nanovllm::Tokenizer::from_gguf(nanovllm::GgufFile(path));
  } else if (ends_with(path, ".json")) {
    tokenizer = nanovllm::Tokenizer::from_json(read_all(path), "", path);
  } else {
    tokenizer = nanovllm::Tokenizer::from_folder(path);
  }
  if (tokenizer == nullptr) throw nanovllm::Error(path, "has no tokenizer");
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << answer(*tokenizer, json::parse(line)).dump() << '\n';
  }
  return 0;
} catch (const std::exception& e) {
  std::cerr << e.what() << '\n';
  return 1;
}
