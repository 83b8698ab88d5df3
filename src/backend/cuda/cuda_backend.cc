#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/check.h"
#include "backend/cuda/pack_quantized.h"

namespace nanovllm::cuda {
namespace {

// A matrix [out_features, in_features] as the products read it: by rows, or in tiles.
struct CudaWeight : Weight {
  WeightFormat format;
  DeviceBuffer memory;

  const void* data() const { return memory.as<void>(); }
  QuantizedMatrix quantized() const {
    return {format, memory.as<std::byte>(), out_features, in_features};
  }
};
const CudaWeight& cuda_weight(const Weight& w) { return static_cast<const CudaWeight&>(w); }

Element kv_element(KVType type) {
  if (type == KVType::kInt8)
    throw InvalidArgument("--kv-cache-dtype",
                          "is int8; with CUDA, auto, float32 and bfloat16 are allowed");
  return type == KVType::kFloat32 ? Element::kFloat32 : Element::kBFloat16;
}

Element weight_element(WeightType type) {
  return type == WeightType::kFloat32 ? Element::kFloat32 : Element::kBFloat16;
}

}  // namespace

CudaBackend::CudaBackend(const PluginOptions& options)
    : options_((check(cudaSetDevice(options.device), "cudaSetDevice"), options)) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, options.device), "cudaGetDeviceProperties");
  device_name_ = properties.name;
  isa_ = "sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
  matmul_.emplace();
  scratch_ = DeviceBuffer(Scratch::kBytes);
}

CudaBackend::~CudaBackend() {
  cudaSetDevice(options_.device);
  communicator_.reset();                 // what waits for other ranks has ended or is aborted
  cudaStreamSynchronize(stream_.get());  // nothing may be freed under a kernel
}

void CudaBackend::make_current() const { check(cudaSetDevice(options_.device), "cudaSetDevice"); }

DeviceMemory CudaBackend::device_memory() const {
  make_current();
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

std::unique_ptr<Weight> CudaBackend::pack(std::span<const TensorView> parts, WeightType type) {
  make_current();
  if (!element_known_) element_ = weight_element(type);
  element_known_ = true;
  if (weight_element(type) != element_)
    throw Error("tensor '" + parts.front().name + "'", "is of another type than the others");
  auto weight = std::make_unique<CudaWeight>();
  weight->in_features = parts.front().shape.back();
  for (const TensorView& part : parts) {
    if (part.shape.size() != 2 || part.shape[1] != weight->in_features)
      throw Error("tensor '" + part.name + "'", "is no matrix that stacks with the others");
    weight->out_features += part.shape[0];
  }
  weight->bytes = packed_bytes(parts, type);
  weight->format = weight_format(parts, type);
  weight->memory = DeviceBuffer(weight->bytes);
  auto* to = weight->memory.as<std::byte>();
  if (weight->format != WeightFormat::kPlain) {
    uploader_.upload_quantized(parts, weight->quantized(), to);
    return weight;
  }
  for (const TensorView& part : parts) {
    uploader_.upload(part, element_, to);
    to += part.num_elements() * element_bytes(element_);
  }
  return weight;
}

int64_t CudaBackend::packed_bytes(std::span<const TensorView> parts, WeightType type) const {
  int64_t rows = 0;
  const int64_t columns = parts.front().shape.back();
  for (const TensorView& part : parts) rows += part.shape.front();
  const WeightFormat format = weight_format(parts, type);
  return format == WeightFormat::kPlain ? rows * columns * element_bytes(weight_element(type))
                                        : matrix_bytes(format, rows, columns);
}

int64_t CudaBackend::kv_cache_bytes(const KVCacheShape& s) const {
  return 2 * s.num_layers * s.num_blocks * s.block_size * s.num_kv_heads * s.head_dim *
         element_bytes(kv_element(s.type));
}

void CudaBackend::allocate_kv_cache(const KVCacheShape& shape) {
  if (shape.head_dim > kMaxHeadDim)
    throw Error("CUDA backend", "takes heads of at most " + std::to_string(kMaxHeadDim) +
                                    " dimensions; the model's have " +
                                    std::to_string(shape.head_dim));
  make_current();
  kv_shape_ = shape;
  kv_cache_ = DeviceBuffer();  // the old one first
  kv_cache_ = DeviceBuffer(kv_cache_bytes(shape));
  if (!uses_tensor_cores()) return;
  int processors = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, options_.device),
        "cudaDeviceGetAttribute");
  const int64_t blocks = processors * int64_t{kDecodeBlocks};
  decode_parts_ = DeviceBuffer(blocks * DecodeWorkspace::part_floats(shape.head_dim) * 4);
  decode_ended_ = DeviceBuffer(blocks * 4, true);
  decode_workspace_ = {.blocks = static_cast<int>(blocks),
                       .parts = decode_parts_.as<float>(),
                       .ended = decode_ended_.as<unsigned>()};
  prepare_attention_prefill();
  prepare_attention_decode();
}

bool CudaBackend::uses_tensor_cores() const {
  return element_ == Element::kBFloat16 && kv_shape_.type == KVType::kBFloat16 &&
         has_tensor_core_attention(kv_shape_.head_dim);
}

KVCache CudaBackend::layer(int index) const {
  const Element type = kv_element(kv_shape_.type);
  const int64_t bytes = kv_cache_bytes(kv_shape_) / kv_shape_.num_layers / 2;
  auto* const keys = kv_cache_.as<std::byte>() + 2 * index * bytes;
  return {.type = type,
          .keys = keys,
          .values = keys + bytes,
          .num_kv_heads = static_cast<int>(kv_shape_.num_kv_heads),
          .block_size = static_cast<int>(kv_shape_.block_size),
          .head_dim = static_cast<int>(kv_shape_.head_dim)};
}

float* CudaBackend::allocate(int64_t num_floats) {
  if (num_floats < 0 || num_floats > INT64_MAX / 8)
    throw Error("activations", "have a size out of range");
  allocations_.emplace_back(std::max<int64_t>(num_floats, 1) * 4, true);
  return allocations_.back().as<float>();
}

void CudaBackend::upload(std::span<const float> values, float* out) {
  make_current();
  uploader_.upload(values, out);
}

// The sum of the embeddings is the residual, which is float32; the others are of activations.
Communicator& CudaBackend::connect(Communicator& host) {
  if (host.size() == 1) return host;
  make_current();
  const auto element_of = [this](const float* data) {
    return data == residual_ ? Element::kFloat32 : element_;
  };
  const auto destroy_graphs = [this] {
    if (reserved_) reserved_->graphs.clear();
  };
  communicator_ = std::make_unique<NcclCommunicator>(
      host, stream_,
      NcclCommunicator::Options{
          {scratch_.as<std::byte>(), Scratch::kBytes}, element_of, destroy_graphs});
  return *communicator_;
}

CudaBackend::Reserved::Reserved(const StepLimits& limits, bool use_graphs)
    : batch(limits), graphs(use_graphs, std::min(limits.max_seqs, limits.max_tokens)) {}

void CudaBackend::reserve(const StepLimits& limits) {
  make_current();
  uploader_.finish();
  reserved_.reset();
  reserved_.emplace(limits, !options_.enforce_eager);
  link_.tokens = DeviceBuffer(limits.max_tokens * 4, true);
  limits_ = limits;
}

int64_t CudaBackend::reserved_bytes(const StepLimits& limits) const {
  return Matmul::kWorkspaceBytes + Scratch::kBytes + BatchBuffers::bytes(limits) +
         limits.max_tokens * 4 + CudaSampler::bytes(limits, kLogitsRows);
}

std::unique_ptr<StepSampler> CudaBackend::make_sampler() {
  make_current();
  reserved();
  return std::make_unique<CudaSampler>(limits_, kLogitsRows, stream_, link_);
}

std::vector<int32_t> CudaBackend::recorded_sizes() const {
  return reserved_ ? reserved_->graphs.sizes() : std::vector<int32_t>();
}

CudaBackend::Reserved& CudaBackend::reserved() {
  if (!reserved_) throw Error("CUDA backend", "was given a step before reserve()");
  return *reserved_;
}

bool CudaBackend::run(const Batch& batch, const std::function<bool(const Batch&)>& forward) {
  make_current();
  Reserved& r = reserved();
  const Batch& padded = r.graphs.pad(batch);
  device_batch_ = r.batch.upload(padded, link_.params, &link_.device_params, stream_);
  logits_rows_.assign(batch.logits_rows.begin(), batch.logits_rows.end());
  batch_ = &padded;
  const bool complete = r.graphs.run(padded, stream_, [&] { return forward(padded); });
  batch_ = nullptr;
  return complete;
}

void CudaBackend::embed(const Weight& table, int64_t first_id, std::span<const int32_t> ids,
                        float* out) {
  if (!batch_ || ids.data() != batch_->token_ids.data())
    throw Error("embed", "takes the tokens of the batch under way");
  residual_ = out;
  const CudaWeight& w = cuda_weight(table);
  if (w.format != WeightFormat::kPlain)
    return embed_quantized(w.quantized(), first_id, device_batch_.token_ids,
                           link_.tokens.as<int32_t>(), std::ssize(ids), out, stream_.get());
  cuda::embed(element_, w.data(), first_id, w.out_features, device_batch_.token_ids,
              link_.tokens.as<int32_t>(), std::ssize(ids), w.in_features, out, stream_.get());
}

void CudaBackend::rms_norm(const float* x, const float* weight, float eps, int64_t rows,
                           int64_t dim, float* out) {
  if (x == out && element_ != Element::kFloat32)
    throw Error("rms_norm", "cannot narrow its input in place");
  // Without a second input nothing is added to the first.
  cuda::add_rms_norm(element_, const_cast<float*>(x), nullptr, weight, eps, rows, dim, out,
                     stream_.get());
}

void CudaBackend::add_rms_norm(float* residual, const float* x, const float* weight, float eps,
                               int64_t rows, int64_t dim, float* out) {
  cuda::add_rms_norm(element_, residual, x, weight, eps, rows, dim, out, stream_.get());
}

void CudaBackend::multiply(const Weight& weight, const float* x, int64_t rows, Element out_type,
                           float* out) {
  const CudaWeight& w = cuda_weight(weight);
  if (w.format == WeightFormat::kPlain)
    return matmul_->linear(w.data(), w.in_features, w.out_features, x, rows, element_, out_type,
                           out, w.out_features, stream_.get());
  quantized_linear(*matmul_, {scratch_.as<std::byte>(), Scratch::kBytes}, w.quantized(), x, rows,
                   out_type, out, stream_.get());
}

void CudaBackend::linear(const Weight& w, const float* bias, const float* x, int64_t rows,
                         float* out) {
  multiply(w, x, rows, element_, out);
  if (bias) cuda::add_bias(element_, out, bias, rows, w.out_features, stream_.get());
}

void CudaBackend::logits(const Weight& head, const float* x, int64_t rows, float* out) {
  multiply(head, x, rows, Element::kFloat32, out);
}

std::span<float> CudaBackend::to_host(float* logits, int64_t n) {
  make_current();
  if (n > logits_host_floats_) {
    stream_.synchronize();  // pinning memory may wait for the device, and so for other ranks
    logits_host_ = PinnedBuffer(n * 4);
    logits_host_floats_ = n;
  }
  auto* const host = logits_host_.as<float>();
  check(cudaMemcpyAsync(host, logits, static_cast<size_t>(n) * 4, cudaMemcpyDeviceToHost,
                        stream_.get()),
        "cudaMemcpyAsync");
  stream_.synchronize();
  return {host, static_cast<size_t>(n)};
}

void CudaBackend::rope_and_store_kv(const RopeParams& p, const Batch&, float* qkv) {
  const RopeArgs args = {.num_heads = p.num_heads,
                         .rotary_dim = p.rotary_dim,
                         .q_norm = p.q_norm,
                         .k_norm = p.k_norm,
                         .eps = p.norm_eps,
                         .cos_sin = p.cos_sin,
                         .interleaved = p.interleaved};
  cuda::rope_and_store_kv(element_, args, device_batch_, layer(p.layer), qkv, stream_.get());
}

void CudaBackend::attention(const AttentionParams& p, const Batch&, const float* qkv, float* out) {
  const AttentionArgs args = {.num_heads = p.num_heads,
                              .scale = p.scale,
                              .window = p.sliding_window,
                              .qkv = qkv,
                              .out = out};
  const KVCache cache = layer(p.layer);
  if (!uses_tensor_cores())
    return attention_general(element_, args, device_batch_, cache, stream_.get());
  attention_decode(args, device_batch_, cache, decode_workspace_, stream_.get());
  attention_prefill(args, device_batch_, cache, stream_.get());
}

void CudaBackend::silu_mul(const float* gate_up, int64_t rows, int64_t dim, float* out) {
  cuda::silu_mul(element_, gate_up, rows, dim, out, stream_.get());
}

void CudaBackend::gather_rows(const float* x, std::span<const int32_t> rows, int64_t dim,
                              float* out) {
  make_current();
  if (rows.empty()) return;
  const auto first = std::ranges::lower_bound(logits_rows_, rows.front());
  if (std::ranges::mismatch(rows, std::span(first, logits_rows_.end())).in1 != rows.end())
    throw Error("gather_rows", "takes rows of the batch's logits_rows");
  cuda::gather_rows(element_, x, device_batch_.logits_rows + (first - logits_rows_.begin()),
                    std::ssize(rows), dim, out, stream_.get());
}

}  // namespace nanovllm::cuda
