// Offline generation through the library: several prompts at once, one streamed.
//
//   build/release/example_offline MODEL
#include <cstdio>

#include "nanovllm/llm.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: example_offline MODEL (a folder or a .gguf file)\n");
    return 2;
  }
  try {
    nanovllm::LLM llm({.model = argv[1]});

    // Many prompts: they share every step, and the longest common beginning of two prompts is
    // computed once.
    const std::vector<nanovllm::Prompt> prompts = {{.text = "The capital of France is"},
                                                   {.text = "The capital of Italy is"}};
    const nanovllm::SamplingParams greedy{.temperature = 0, .max_tokens = 16};
    for (const nanovllm::RequestOutput& output : llm.generate(prompts, {&greedy, 1}))
      std::printf("%s\n", output.outputs[0].text.c_str());

    // One prompt, token by token.
    llm.add_request({.text = "Once upon a time"}, {.temperature = 0.8, .seed = 1, .max_tokens = 32},
                    [](const nanovllm::StreamEvent& event) {
                      std::fwrite(event.text.data(), 1, event.text.size(), stdout);
                      std::fflush(stdout);
                    });
    while (llm.has_unfinished_requests()) llm.step();
    std::printf("\n");
  } catch (const nanovllm::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
