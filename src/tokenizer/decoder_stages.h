// Makes the stage that a DecoderSpec describes. Internal to the decoder.
#pragma once

#include "tokenizer/decoder.h"

namespace nanovllm {

std::unique_ptr<DecoderStage> make_decoder_stage(const DecoderSpec& spec);

}  // namespace nanovllm
