// Graphs: a step of decodes, recorded once for each of a few batch sizes and then repeated by one
// call instead of some ten a layer, which would cost the processor more time than the device needs
// to run them.
//
// A graph repeats its kernels with the arguments they had when they were recorded. So everything
// that changes from step to step lies in memory at fixed places (batch_buffers.h), and a batch is
// padded to the recorded size: the sequences that are added have slot -1 and no keys, write nowhere
// and read nothing.
//
// Belongs to one backend and its thread.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "backend/batch.h"
#include "backend/cuda/memory.h"

namespace nanovllm::cuda {

class Graphs {
 public:
  // max_seqs: the largest batch that is worth a graph.
  Graphs(bool enabled, int64_t max_seqs);
  ~Graphs();
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  // What batches are padded to, ascending.
  std::vector<int32_t> sizes() const;

  // The batch as it will be run: padded to the next size if it is one of decodes alone, else
  // itself. Padded where no graphs are wanted as well, so that the same kernels give the same bits.
  // Valid until the next call.
  const Batch& pad(const Batch& batch);
  // Runs what `forward` puts into the stream for the batch that pad() gave: by the graph of its
  // size, if there is one; else by forward itself, which is called a second time to be recorded.
  // False: forward did not come to its end.
  bool run(const Batch& padded, const Stream& stream, const std::function<bool()>& forward);
  // Forgets them all.
  void clear();

 private:
  // Null: forward did not come to its end.
  cudaGraphExec_t record(const Stream& stream, const std::function<bool()>& forward);

  const bool enabled_;
  const int64_t max_size_;
  Batch padded_;
  std::map<int64_t, cudaGraphExec_t> graphs_;  // by the number of sequences
};

}  // namespace nanovllm::cuda
