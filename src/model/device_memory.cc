#include "model/device_memory.h"

#include <cmath>
#include <cstdio>
#include <string>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

std::string gib(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / 0x1p30);
  return text;
}

std::string in_bytes(int64_t bytes) { return std::to_string(bytes) + " bytes"; }

}  // namespace

int64_t device_kv_budget(const EngineConfig& config, const MemoryPlan& plan, int64_t least) {
  const int64_t fixed = plan.weights_bytes + plan.activation_bytes + plan.reserved_bytes;
  const int64_t free = plan.free_bytes;
  const auto usable =
      static_cast<int64_t>(config.gpu_memory_utilization * static_cast<double>(free));
  const std::string parts = "weights (" + gib(plan.weights_bytes) + "), activations (" +
                            gib(plan.activation_bytes) + ") and workspace (" +
                            gib(plan.reserved_bytes) + ")";
  if (config.kv_cache_memory_bytes) {  // says all; the share does not count
    const int64_t needed = fixed + config.kv_cache_memory_bytes;
    if (needed > free)
      throw InvalidArgument("--kv-cache-memory-bytes",
                            "is " + std::to_string(config.kv_cache_memory_bytes) + ", which with " +
                                parts + " is " + in_bytes(needed - free) + " more than the " +
                                gib(free) + " that are free on the GPU; lower it by that");
    return config.kv_cache_memory_bytes;
  }
  const int64_t needed = fixed + least;
  if (needed <= usable) return usable - fixed;
  const std::string cache =
      config.max_model_len
          ? " and the KV cache of one sequence of --max-model-len (" + gib(least) + ")"
          : " and one KV cache block (" + in_bytes(least) + ")";
  if (needed <= free) {
    char is[64], raise[64];  // to a share that is enough
    std::snprintf(is, sizeof is, "is %g", config.gpu_memory_utilization);
    std::snprintf(raise, sizeof raise, "%.3f",
                  std::ceil(static_cast<double>(needed) / static_cast<double>(free) * 1000) / 1000);
    throw InvalidArgument("--gpu-memory-utilization",
                          std::string(is) + " of the " + gib(free) +
                              " that are free on the GPU, but " + parts + cache + " take " +
                              in_bytes(needed - usable) + " more than that; raise it to " + raise);
  }
  if (config.max_model_len && fixed < usable)
    throw InvalidArgument("--max-model-len", "is " + std::to_string(config.max_model_len) +
                                                 ", but " + parts + cache + " take " +
                                                 in_bytes(needed - free) + " more than the " +
                                                 gib(free) + " that are free on the GPU; lower it");
  throw InvalidArgument("--device", "is cuda, but " + parts + cache + " take " +
                                        in_bytes(needed - free) + " more than the " + gib(free) +
                                        " that are free on the GPU; --quantization int8, a smaller "
                                        "--max-num-batched-tokens or --max-num-seqs take less");
}

}  // namespace nanovllm
