// Example requests, to have something to look at: token ids, so that they run on every model.
import { postJson } from "./api.js";

const kMostOpen = 2;  // a browser keeps six connections to a server, and the page needs some
let open = 0;
let lastSeed = Date.now() % 89;

function ids(count, seed) {
  return Array.from({ length: count }, (_, i) => 5 + ((i * 31 + seed * 17) % 90));
}

// name: a value of the page's list. The answers are of no interest.
export async function sendExample(name, config) {
  if (!name || !config) return;
  if (open >= kMostOpen) throw new Error("Wait until the examples that were sent are done.");
  const longest = Math.max(1, Math.floor(config.max_model_len / 2) - 1), seed = ++lastSeed;
  const prompt = (count, from = seed) => ids(Math.min(count, longest), from);
  const alike = (count, more) => [...ids(100, seed), ...ids(count, seed + more)].slice(0, longest);
  const [prompts, tokens] = {
    prefix: () => [[alike(12, 1), alike(30, 2)], 80],
    long: () => [[prompt(20), prompt(30, seed + 1), prompt(1500, seed + 2)], 100],
    many: () => [Array.from({ length: 12 }, (_, i) => prompt(20 + 25 * i, seed + i)), 60],
  }[name]();
  ++open;
  try {
    await postJson("/v1/completions", { model: config.model, prompt: prompts, max_tokens: Math.min(tokens, longest), ignore_eos: true, temperature: 0 });
  } finally {
    --open;
  }
}
