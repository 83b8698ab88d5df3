#include "model/checkpoint.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace fs = std::filesystem;
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

class SafetensorsModel : public Checkpoint {
 public:
  explicit SafetensorsModel(const std::string& folder) : files_(folder) {
    path_ = folder;
    config_ = parse_hf_config(read_text_file(folder + "/config.json"), folder + "/config.json");
    const std::string generation = folder + "/generation_config.json";
    if (fs::exists(generation))
      generation_ = parse_generation_config(read_text_file(generation), generation);
    if (!generation_.eos_token_ids.empty()) config_.eos_token_ids = generation_.eos_token_ids;
    for (const std::string& skipped : files_.skipped())
      if (!carries_nothing(skipped.substr(0, skipped.rfind(" ("))))
        throw Error(folder, "tensor " + skipped + " has a type that is not supported");
  }
  bool has(const std::string& name) const override { return files_.tensors().count(name) != 0; }
  void release(const TensorView& view) const override { files_.release(view); }
  std::vector<TensorView> all_tensors() const override {
    std::vector<TensorView> all;
    for (const auto& [name, view] : files_.tensors()) all.push_back(view);
    return all;
  }
  static bool carries_nothing(const std::string& name) {
    return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attn.bias") ||
           name.ends_with(".attn.masked_bias");
  }

 protected:
  TensorView find(const std::string& name) const override {
    const auto it = files_.tensors().find(name);
    if (it == files_.tensors().end()) throw Error(path_, "tensor '" + name + "' is missing");
    return it->second;
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, view] : files_.tensors())
      if (!carries_nothing(name) && !(config_.tie_word_embeddings && name == "lm_head.weight"))
        all.push_back(name);
    return all;
  }

 private:
  SafetensorsCheckpoint files_;
};

// Hugging Face's name -> GGUF's, piece by piece.
std::string gguf_name(const std::string& name) {
  static const std::pair<const char*, const char*> kTop[] = {{"model.embed_tokens.", "token_embd."},
                                                             {"model.norm.", "output_norm."},
                                                             {"lm_head.", "output."}};
  static const std::pair<const char*, const char*> kLayer[] = {
      {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
      {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  for (const auto& [from, to] : kTop)
    if (name.starts_with(from)) return to + name.substr(std::string(from).size());
  const std::string prefix = "model.layers.";
  if (!name.starts_with(prefix)) return name;
  const size_t dot = name.find('.', prefix.size());
  const std::string layer = name.substr(prefix.size(), dot - prefix.size()),
                    rest = name.substr(dot + 1);
  for (const auto& [from, to] : kLayer)
    if (rest.starts_with(std::string(from) + "."))
      return "blk." + layer + "." + to + rest.substr(std::string(from).size());
  return name;
}

class GgufModel : public Checkpoint {
 public:
  explicit GgufModel(const std::string& path) : file_(path) {
    path_ = path;
    config_ = parse_gguf_config(file_);
    const std::string generation =
        (fs::path(path).parent_path() / "generation_config.json").string();
    if (fs::exists(generation))
      generation_ = parse_generation_config(read_text_file(generation), generation);
  }
  bool has(const std::string& name) const override {
    return file_.tensors().count(gguf_name(name)) != 0;
  }
  void release(const TensorView& view) const override { file_.release(view); }
  std::vector<TensorView> all_tensors() const override {
    std::vector<TensorView> all;
    for (const auto& [name, view] : file_.tensors()) all.push_back(view);
    return all;
  }
  const GgufFile* gguf() const override { return &file_; }

 protected:
  TensorView find(const std::string& name) const override {
    const auto it = file_.tensors().find(gguf_name(name));
    if (it == file_.tensors().end())
      throw Error(path_, "tensor '" + gguf_name(name) + "' is missing");
    return it->second;
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, view] : file_.tensors()) all.push_back(name);
    return all;
  }

 private:
  GgufFile file_;
};

}  // namespace

std::string read_text_file(const std::string& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) throw Error(path, "cannot be read: " + error.message());
  if (size > (256u << 20)) throw Error(path, "is larger than 256 MiB");
  std::ifstream in(path, std::ios::binary);
  std::string text(size, '\0');
  if (!in.read(text.data(), static_cast<std::streamsize>(size)))
    throw Error(path, "cannot be read");
  return text;
}

std::unique_ptr<Checkpoint> Checkpoint::open(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) throw Error(path, "no such file or folder");
  if (fs::is_directory(path)) {
    if (!fs::exists(path + "/config.json")) throw Error(path, "the folder has no config.json");
    return std::make_unique<SafetensorsModel>(path);
  }
  return std::make_unique<GgufModel>(path);
}

TensorView Checkpoint::get(const std::string& name, const std::vector<int64_t>& shape) {
  TensorView view = find(name);
  if (view.shape != shape)
    throw Error(path_, "tensor '" + view.name + "' has shape " + shape_text(view.shape) +
                           ", expected " + shape_text(shape));
  used_.insert(view.name);
  return view;
}

void Checkpoint::refuse_unused() const {
  for (const std::string& name : names())
    if (!used_.count(name))
      throw Error(path_, "tensor '" + name + "' is not part of a " + config_.architecture +
                             " model as its configuration describes it");
}

}  // namespace nanovllm
