// llama_logits MODEL.gguf IDS WINDOW KV THREADS OUT: llama.cpp's logits for bench_quality.
//
// Runs each window of WINDOW int32 token ids of the file IDS as a sequence of its own and writes
// its [WINDOW, vocabulary] float32 logits to OUT. KV: f16 (llama.cpp's default) or f32. Built by
// bench/quality against llama.cpp's library; no part of the product.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "llama.h"

namespace {

int fail(const char* what) {
  std::fprintf(stderr, "llama_logits: %s\n", what);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) return fail("usage: llama_logits MODEL.gguf IDS WINDOW KV THREADS OUT");
  const int window = std::atoi(argv[3]), threads = std::atoi(argv[5]);
  std::vector<llama_token> ids;
  FILE* in = std::fopen(argv[2], "rb");
  if (in == nullptr) return fail("cannot read the ids");
  for (llama_token id; std::fread(&id, sizeof id, 1, in) == 1;) ids.push_back(id);
  std::fclose(in);

  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == nullptr) return fail("cannot load the model");
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = static_cast<uint32_t>(window);
  params.n_threads = params.n_threads_batch = threads;
  if (std::strcmp(argv[4], "f32") == 0) params.type_k = params.type_v = GGML_TYPE_F32;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) return fail("cannot make a context");
  const auto vocab = static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));

  FILE* out = std::fopen(argv[6], "wb");
  if (out == nullptr) return fail("cannot write the logits");
  llama_batch batch = llama_batch_init(window, 0, 1);
  batch.n_tokens = window;
  for (size_t first = 0; first + static_cast<size_t>(window) <= ids.size();
       first += static_cast<size_t>(window)) {
    llama_memory_clear(llama_get_memory(context), true);
    for (int i = 0; i < window; ++i) {
      batch.token[i] = ids[first + static_cast<size_t>(i)];
      batch.pos[i] = i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    if (llama_decode(context, batch) != 0) return fail("llama_decode failed");
    for (int i = 0; i < window; ++i)
      if (std::fwrite(llama_get_logits_ith(context, i), sizeof(float), vocab, out) != vocab)
        return fail("the reader has gone");
  }
  return std::fclose(out) == 0 ? 0 : fail("cannot write the logits");
}
