#include "nanovllm/structured_outputs.h"

#include "nanovllm/error.h"

namespace nanovllm {

void StructuredOutputs::validate() const {
  if (enabled()) throw InvalidArgument("structured_outputs", "is not supported");
}

}  // namespace nanovllm
