#include "model/agreement.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <exception>
#include <sstream>
#include <vector>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

// FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/
struct Hash {
  uint64_t value = 0xcbf29ce484222325;
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) value = (value ^ static_cast<uint64_t>(b)) * 0x100000001b3;
  }
};

// Four places are enough to tell two trainings apart, and few enough to be read from a slow disk.
uint64_t sample(const TensorView& tensor) {
  constexpr size_t kPlaces = 4, kBytes = 64;
  Hash hash;
  const size_t size = tensor.data.size(), count = std::min(kBytes, size);
  for (size_t i = 0; i < kPlaces; ++i)
    hash.add(tensor.data.subspan((size - count) / (kPlaces - 1) * i, count));
  return hash.value;
}

std::string rank_name(const Communicator& ranks, int r) {
  return "rank " + std::to_string(r) + " on " + ranks.host(r);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// What lies before and behind the first tab.
std::string name_of(const std::string& line) { return line.substr(0, line.find('\t')); }
std::string value_of(const std::string& line) {
  const size_t tab = line.find('\t');
  return tab == std::string::npos ? "" : line.substr(tab + 1);
}

std::string difference(const std::string& mine, const std::string& first) {
  const std::vector<std::string> a = lines_of(mine), b = lines_of(first);
  const auto [x, y] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (x == a.end()) return name_of(*y) + " is missing";
  if (y == b.end()) return name_of(*x) + " is there besides";
  if (name_of(*x) != name_of(*y)) return name_of(*x) + " is where rank 0 has " + name_of(*y);
  return name_of(*x) + " is " + value_of(*x) + ", on rank 0 " + value_of(*y);
}

constexpr char kReady = 'r', kFailed = 'f';

// Throws Error for the first rank whose text does not say that it is ready.
void check_ready(const Communicator& ranks, const std::vector<std::string>& all) {
  for (int r = 0; r < ranks.size(); ++r)
    if (all[r].empty() || all[r][0] != kReady)
      throw Error(rank_name(ranks, r), all[r].empty() ? "has ended" : all[r].substr(1));
}

}  // namespace

std::string fingerprint(const Checkpoint& checkpoint, const EngineConfig& config,
                        const MemoryPlan& plan) {
  std::ostringstream out;
  out << "the byte order\t" << (std::endian::native == std::endian::little ? "little" : "big")
      << "\n--tensor-parallel-size\t" << config.tensor_parallel_size  //
      << "\n--device\t" << config.device                              //
      << "\n--dtype\t" << config.dtype                                //
      << "\n--quantization\t" << config.quantization                  //
      << "\n--kv-cache-dtype\t" << config.kv_cache_dtype              //
      << "\n--block-size\t" << config.block_size                      //
      << "\n--max-num-seqs\t" << config.max_num_seqs                  //
      << "\n--max-num-batched-tokens\t" << config.max_num_batched_tokens;
  const ModelConfig& c = checkpoint.config();
  const RopeConfig& rope = c.rope;
  out << "\nthe architecture\t" << c.architecture << "\nthe configuration\t" << c.vocab_size << ' '
      << c.hidden_size << ' ' << c.intermediate_size << ' ' << c.num_layers << ' ' << c.num_heads
      << ' ' << c.num_kv_heads << ' ' << c.head_dim << ' ' << c.max_position_embeddings << ' '
      << c.rms_norm_eps << ' ' << c.tie_word_embeddings << c.qkv_bias << c.o_bias << c.mlp_bias
      << c.qk_norm;
  for (const int64_t window : c.sliding_window) out << ' ' << window;
  out << "\nthe rotary embedding\t" << static_cast<int>(rope.scaling) << ' ' << rope.theta << ' '
      << rope.factor << ' ' << rope.original_max_position_embeddings << ' ' << rope.low_freq_factor
      << ' ' << rope.high_freq_factor << ' ' << rope.beta_fast << ' ' << rope.beta_slow << ' '
      << rope.attention_factor << ' ' << rope.mscale << ' ' << rope.mscale_all_dim << ' '
      << rope.truncate << rope.interleaved << rope.freq_factors;
  std::vector<TensorView> tensors = checkpoint.all_tensors();
  std::ranges::sort(tensors, {}, &TensorView::name);
  for (const TensorView& t : tensors) {
    out << "\ntensor '" << t.name << "'\t" << dtype_name(t.dtype) << " [";
    for (size_t i = 0; i < t.shape.size(); ++i) out << (i ? ", " : "") << t.shape[i];
    out << "] with data " << std::hex << sample(t) << std::dec;
  }
  out << "\n--max-model-len\t" << plan.max_model_len << "\nthe number of KV cache blocks\t"
      << plan.num_kv_blocks << "\n";
  return out.str();
}

void agree(Communicator& ranks, const std::function<std::string()>& prepare) {
  std::string mine;
  std::exception_ptr error;
  try {
    mine = kReady + prepare();
  } catch (const std::exception& e) {
    error = std::current_exception();
    mine = kFailed + std::string(e.what());
  }
  const std::vector<std::string> all = ranks.all_gather(mine);
  if (error) std::rethrow_exception(error);
  check_ready(ranks, all);
  for (int r = 1; r < ranks.size(); ++r)
    if (all[r] != all[0])
      throw Error(rank_name(ranks, r), "does not agree with " + rank_name(ranks, 0) + ": " +
                                           difference(all[r].substr(1), all[0].substr(1)));
}

int64_t least_free_bytes(Communicator& ranks, const DeviceMemory& memory) {
  int64_t least = memory.total_bytes ? memory.free_bytes : INT64_MAX;
  const std::vector<std::string> all = ranks.all_gather(kReady + std::to_string(least));
  check_ready(ranks, all);
  for (const std::string& text : all) {
    int64_t value = least;
    std::from_chars(text.data() + 1, text.data() + text.size(), value);
    least = std::min(least, value);
  }
  return least;
}

}  // namespace nanovllm
