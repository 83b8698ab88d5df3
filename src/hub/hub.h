// The hub: from a model's name to a path on this machine.
//
// A name is a path; a short name of the built-in list (short_names.h); or a hub repository
// "org/name", with an optional revision and file: "org/name@revision:file.gguf". What was fetched
// is kept under cache_folder() and used offline from then on. Everything a server sends is
// untrusted: file names are checked, sizes and hashes compared.
//
// Several processes may fetch the same model at once: a lock file lets one of them work and the
// others wait. Files get their final name only when they are complete and checked, so an
// interruption at any moment leaves nothing broken.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "nanovllm/error.h"
#include "nanovllm/sampling_params.h"

namespace nanovllm {

struct TransferProgress {
  std::string activity;  // "fetching model.safetensors (2 of 5)", "waiting for another process ..."
  int64_t done = 0, total = 0;  // bytes of everything to be fetched; total 0: not known
};
// Called often (about ten times a second); false stops the transfer, which then throws Cancelled.
// May be null.
using ProgressCallback = std::function<bool(const TransferProgress&)>;

class Cancelled : public Error {
 public:
  using Error::Error;
};

// $NANO_VLLM_CACHE, else ~/.cache/nano-vllm. Not created here.
std::string cache_folder();

// The path of a model's folder or .gguf file. Fetches a short name that is not in the cache yet; a
// hub repository must have been pulled before. Throws Error that says what to do.
std::string resolve_model(const std::string& name, const ProgressCallback& progress = nullptr);

// How a model of the built-in list answers best, for the commands a person talks to; nothing is set
// for any other model.
GenerationDefaults recommended_sampling(const std::string& name);

struct PullOptions {
  std::vector<std::string>
      include;  // globs over the repository's file names; empty: what the engine reads
};

struct PullResult {
  std::string path;                // what to give as MODEL
  std::vector<std::string> files;  // names inside the repository (or the cache)
  int64_t bytes_fetched = 0;       // over the network, by this call
};

// Fetches a short name, or a repository from $HF_ENDPOINT (with $HF_TOKEN, if set). Files that are
// already there and match are kept; a partial one is resumed.
PullResult pull(const std::string& name, const PullOptions& options = {},
                const ProgressCallback& progress = nullptr);

}  // namespace nanovllm
