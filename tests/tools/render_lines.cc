// Renders many templates in one process, for the Python tests: lines of {"template", "context"} in,
// lines of {"output"} or
// {"error"} out.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "nanovllm/error.h"
#include "tokenizer/chat_template.h"

int main() {
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    nlohmann::ordered_json reply;
    try {
      const auto request = nlohmann::ordered_json::parse(line);
      const nanovllm::ChatTemplate chat_template(request.at("template").get<std::string>(),
                                                 "template");
      reply["output"] = chat_template.render(request.at("context"));
    } catch (const std::exception& error) {
      reply["error"] = error.what();
    }
    std::cout << reply.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
              << '\n'
              << std::flush;
  }
}
