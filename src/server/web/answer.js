// Asking the model: a conversation in, an answer that grows.
import { events } from "./api.js";
import { settings } from "./store.js";

// What the user set, else what suits the model, else the server's own.
function sampling(model) {
  const fields = { ...model.defaults };
  for (const name of ["temperature", "top_p", "top_k", "max_tokens", "seed"])
    if (settings[name] !== "" && Number.isFinite(Number(settings[name]))) fields[name] = Number(settings[name]);
  return fields;
}

// A model without a chat template goes on with the text, so the whole conversation is the prompt.
function requestOf(model, messages) {
  const common = { model: model.name, stream: true, stream_options: { include_usage: true }, ...sampling(model) };
  if (!model.chat) {
    const text = [settings.system, ...messages.map((m) => m.content)].filter(Boolean).join("");
    return ["/v1/completions", { max_tokens: 256, ...common, prompt: text }];
  }
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  return ["/v1/chat/completions", { ...common, messages: [...system, ...messages.map(({ role, content }) => ({ role, content }))] }];
}

// Appends to answer.content and answer.stats as tokens come; calls changed() each time. Throws
// ApiError, or AbortError if signal said so.
export async function ask(model, messages, answer, changed, signal) {
  const [path, body] = requestOf(model, messages);
  const began = performance.now();
  let first = 0, finish = null, ended = false;
  answer.stats = { tokens: 0 };
  for await (const { data } of events(path, { method: "POST", body, signal })) {
    if (data === "[DONE]") { ended = true; break; }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message || "The server could not go on.");
    const choice = chunk.choices?.[0];
    const text = choice?.delta?.content ?? choice?.text ?? "";
    const now = performance.now();
    if (choice?.finish_reason) finish = choice.finish_reason;
    if (text || choice?.finish_reason) {
      if (!first && text) {
        first = now;
        answer.stats.firstToken = (now - began) / 1000;
      }
      answer.content += text;
      ++answer.stats.tokens;  // about one a chunk; the usage at the end is exact
    }
    if (chunk.usage) {
      answer.stats.tokens = chunk.usage.completion_tokens;
      answer.stats.prompt = chunk.usage.prompt_tokens;
      answer.stats.cached = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
    }
    if (first && now > first && answer.stats.tokens > 1) answer.stats.speed = (answer.stats.tokens - 1) / ((now - first) / 1000);
    changed();
  }
  if (!ended) throw new Error("The answer broke off.");
  if (finish === "length") answer.note = "stopped at the longest answer allowed";
}
