// Makes the stage that a DecoderSpec describes. Internal to the decoder.
#pragma once

#include <optional>

#include "tokenizer/decoder.h"

namespace nanovllm {

std::unique_ptr<DecoderStage> make_decoder_stage(const DecoderSpec& spec);

// The byte that a token such as <0x0A> stands for.
std::optional<uint8_t> fallback_byte(std::string_view token);

}  // namespace nanovllm
