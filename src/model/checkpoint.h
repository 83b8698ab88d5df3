// Checkpoint: one model's files behind one set of tensor names. A folder of safetensors and a GGUF
// file look the same from here on: names are those of Hugging Face's Llama
// ("model.layers.0.self_attn.q_proj.weight"), and GGUF's are translated.
//
// Tracks which tensors were asked for, so that a checkpoint that holds more than the model uses is
// refused instead of half used. Not thread-safe; used while loading only.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "model/model_config.h"

namespace nanovllm {

class GgufFile;

class Checkpoint {
 public:
  // path: a folder with config.json and safetensors, or a GGUF file; a generation_config.json
  // beside either. Throws Error naming file, tensor or key, and reason.
  static std::unique_ptr<Checkpoint> open(const std::string& path);
  virtual ~Checkpoint() = default;

  const ModelConfig& config() const { return config_; }
  const GenerationConfig& generation_config() const { return generation_; }

  virtual bool has(const std::string& name) const = 0;
  // The tensor, which must have this shape. Throws Error if it is missing or has another.
  TensorView get(const std::string& name, const std::vector<int64_t>& shape);
  virtual void release(const TensorView& view) const = 0;  // packed: its file pages may go
  virtual std::vector<TensorView> all_tensors()
      const = 0;  // under the names of the file, for `inspect`
  virtual const GgufFile* gguf() const { return nullptr; }  // for the tokenizer's metadata

  // Throws Error if the file holds tensors that were never asked for, other than those known to
  // carry nothing.
  void refuse_unused() const;

 protected:
  virtual TensorView find(const std::string& name) const = 0;  // throws Error if missing
  virtual std::vector<std::string> names()
      const = 0;  // every tensor, under the names that get() takes

  std::string path_;
  ModelConfig config_;
  GenerationConfig generation_;
  std::set<std::string> used_;
};

std::string read_text_file(const std::string& path);  // whole; throws Error. At most 256 MiB

}  // namespace nanovllm
