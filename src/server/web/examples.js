// Example requests, to have something to look at: token ids, so that they run on every model.
import { postJson } from "./api.js";

let lastSeed = Date.now() % 89;

function ids(count, seed) {
  return Array.from({ length: count }, (_, i) => 5 + ((i * 31 + seed * 17) % 90));
}

// name: a value of the page's list. The answers are of no interest.
export async function sendExample(name, config) {
  if (!name || !config) return;
  const room = config.max_model_len, seed = ++lastSeed;
  const cap = (n) => Math.max(1, Math.min(n, Math.floor(room / 2) - 1));
  const send = (prompt, tokens) => postJson("/v1/completions", { model: config.model, prompt, max_tokens: cap(tokens), ignore_eos: true, temperature: 0 });
  const prefix = ids(cap(100), seed);
  const lists = {
    prefix: () => [send([...prefix, ...ids(12, seed + 1)].slice(0, cap(112)), 80), send([...prefix, ...ids(30, seed + 2)].slice(0, cap(130)), 80)],
    long: () => [send(ids(20, seed), 120), send(ids(30, seed + 1), 120), send(ids(cap(1500), seed + 2), 40)],
    many: () => Array.from({ length: 12 }, (_, i) => send(ids(cap(20 + 25 * i), seed + i), 60)),
  };
  await Promise.all(lists[name]());
}
