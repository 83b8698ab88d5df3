// The web page: the files of src/server/web, which the binary carries, at / and /web/*, and
// /web/model.json, which tells the page about the model. No key is asked for: there is nothing
// secret in them.
#pragma once

#include <string>

#include "server/api_server.h"

namespace nanovllm {

// llm: for what any thread may ask. defaults: how the page samples unless the user says otherwise.
void add_web_page(ApiServer& server, const LLM& llm, const GenerationDefaults& defaults,
                  const std::string& model_name, const std::string& version);

}  // namespace nanovllm
