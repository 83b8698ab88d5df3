#include "engine/output_processor.h"

#include <algorithm>

#include "tokenizer/partial_match.h"

namespace nanovllm {

OutputProcessor::OutputProcessor(const Tokenizer* tokenizer, std::vector<int32_t> eos_token_ids)
    : tokenizer_(tokenizer), eos_token_ids_(std::move(eos_token_ids)) {}

void OutputProcessor::start(Sequence& seq) const {
  if (tokenizer_)
    seq.detokenizer = std::make_unique<IncrementalDetokenizer>(
        *tokenizer_, seq.request->params.skip_special_tokens);
}

bool OutputProcessor::stops_at(const Sequence& seq, int32_t token, CompletionOutput& out) const {
  const SamplingParams& params = seq.request->params;
  if (seq.matcher && seq.matcher->is_terminated()) return true;
  if (seq.num_output_tokens() <= params.min_tokens) return false;
  auto among = [&](const auto& ids) { return std::ranges::find(ids, token) != ids.end(); };
  if (!params.ignore_eos && among(eos_token_ids_)) return true;
  if (!among(params.stop_token_ids)) return false;
  out.stop_reason = std::to_string(token);
  return true;
}

void OutputProcessor::append(Sequence& seq, std::span<const TokenLogprob> logprobs) {
  const int32_t token = seq.token_ids.back();
  const SamplingParams& params = seq.request->params;
  CompletionOutput& out = seq.request->output.outputs[seq.index];
  const size_t text_from = out.text.size();
  out.token_ids.push_back(token);
  if (!logprobs.empty()) out.logprobs.emplace_back(logprobs.begin(), logprobs.end());

  const bool stopped = stops_at(seq, token, out);
  const bool at_limit = seq.num_output_tokens() >= params.max_tokens;
  FinishReason reason = stopped    ? FinishReason::kStop
                        : at_limit ? FinishReason::kLength
                                   : FinishReason::kNone;
  if (seq.detokenizer) {
    std::string piece;
    if (!stopped || params.include_stop_str_in_output) piece = seq.detokenizer->add(token);
    if (reason != FinishReason::kNone) piece += seq.detokenizer->finish();
    if (advance_text(seq, piece, reason != FinishReason::kNone, out)) reason = FinishReason::kStop;
  }
  emit(seq, token, text_from, reason);
}

bool OutputProcessor::advance_text(Sequence& seq, const std::string& piece, bool is_last,
                                   CompletionOutput& out) const {
  const SamplingParams& params = seq.request->params;
  std::string& text = seq.held_back;
  text += piece;
  // Before min_tokens nothing stops, and what was out by then is not looked at again.
  const bool may_stop = seq.num_output_tokens() > params.min_tokens && !params.stop.empty();
  if (may_stop) {
    size_t at = std::string::npos;
    const std::string* match = nullptr;
    for (const std::string& stop : params.stop)
      if (const size_t found = text.find(stop); found < at) at = found, match = &stop;
    if (match) {
      out.text.append(text, 0, at + (params.include_stop_str_in_output ? match->size() : 0));
      out.stop_reason = *match;
      text.clear();
      return true;
    }
  }
  const size_t held = may_stop && !is_last ? longest_start_at_end(text, params.stop) : 0;
  out.text.append(text, 0, text.size() - held);
  text.erase(0, text.size() - held);
  return false;
}

void OutputProcessor::end(Sequence& seq, FinishReason reason) {
  CompletionOutput& out = seq.request->output.outputs[seq.index];
  const size_t text_from = out.text.size();
  if (seq.detokenizer && seq.num_output_tokens() > 0)
    out.text += seq.held_back + seq.detokenizer->finish();
  seq.held_back.clear();
  emit(seq, -1, text_from, reason);
}

void OutputProcessor::emit(Sequence& seq, int32_t token, size_t text_from, FinishReason reason) {
  Request& request = *seq.request;
  CompletionOutput& out = request.output.outputs[seq.index];
  out.finish_reason = reason;
  if (reason != FinishReason::kNone) --request.num_unfinished;
  if (!request.callback) return;
  request.callback(
      {.request_id = request.id,
       .index = seq.index,
       .text = std::string_view(out.text).substr(text_from),
       .token_id = token,
       .logprobs = token >= 0 && !out.logprobs.empty() ? &out.logprobs.back() : nullptr,
       .finish_reason = reason,
       .request_finished = request.num_unfinished == 0,
       .output = &request.output});
}

}  // namespace nanovllm
