// The parts of the engine view that are elements: figures, this step's batch, the requests, words.
import { $, el, formatNumber } from "./dom.js";
import { totals } from "./frames.js";
import { markSequence } from "./block_map.js";
import { paint } from "./palette.js";

const kMostChips = 40, kMostRows = 60;
const plural = (n, one, many = one + "s") => `${formatNumber(n)} ${n === 1 ? one : many}`;

// In the engine, and in the queue before it.
const waitingIn = (frame) => frame.stats.waiting + (frame.queue?.count ?? 0);

export function showTiles(frame, config, speed) {
  const { stats, phases } = frame;
  // The server counts what a request found in the cache when it ends.
  const cached = frame.sequences.reduce((sum, s) => sum + (s.index ? 0 : s.fromCache), stats.prompt_tokens_cached);
  const looked = cached + stats.prompt_tokens_computed;
  const used = stats.kv_blocks_used / config.num_blocks;
  const time = frame.seconds * 1000;
  const tiles = [
    ["Tokens per second", formatNumber(speed, speed < 100 ? 1 : 0), "generated, over the last second"],
    ["Step", frame.snapshot ? "–" : formatNumber(time, time < 10 ? 2 : time < 100 ? 1 : 0) + " ms",
     frame.snapshot ? "nothing is being computed" : `${formatNumber((100 * phases.model) / Math.max(frame.seconds, 1e-9))} % of it in the model`],
    ["Running", formatNumber(stats.running), plural(waitingIn(frame), "more is waiting", "more are waiting")],
    ["KV blocks in use", formatNumber(100 * used, used < 0.1 && used > 0 ? 1 : 0) + " %", `${formatNumber(stats.kv_blocks_used)} of ${formatNumber(config.num_blocks)}`],
    ["Prefix cache", looked ? formatNumber((100 * cached) / looked, 1) + " %" : "–", `${plural(cached, "prompt token")} not computed again`],
    ["Preemptions", formatNumber(stats.preemptions), "requests thrown out for a while"],
  ];
  if (stats.num_draft_tokens)
    tiles.push(["Guesses", formatNumber((100 * stats.num_accepted_tokens) / stats.num_draft_tokens) + " %", `right, of ${formatNumber(stats.num_draft_tokens)} drafted tokens`]);
  $("tiles").replaceChildren(...tiles.map(([name, value, note]) => el("div", {}, el("dt", {}, name), el("dd", {}, value, el("small", {}, note)))));
}

const describeShare = (s) => s.decode
  ? `decode at ${formatNumber(s.first)}` + (s.drafts ? `, ${s.accepted} of ${s.drafts} guesses right` : "")
  : `prefill ${formatNumber(s.first)}–${formatNumber(s.first + s.tokens - 1)}` + (s.cached ? `, ${formatNumber(s.cached)} from the cache` : "");

export function showBatch(frame, config) {
  const { prefill, decode, chunks, decodes, tokens } = totals(frame);
  const budget = config.max_num_batched_tokens;
  $("batch-note").textContent = frame.snapshot ? "nothing is being computed"
    : `${formatNumber(tokens)} of ${formatNumber(budget)} tokens: ` + [chunks && `${plural(chunks, "prompt chunk")} with ${formatNumber(prefill)}`,
        decodes && plural(decodes, "decode") + (decode > decodes ? ` with ${formatNumber(decode)}` : "")].filter(Boolean).join(", ");
  const bar = $("batch-bar");
  bar.setAttribute("aria-label", $("batch-note").textContent);
  // Decodes first, as in the engine.
  const shares = [...frame.batch].sort((a, b) => Boolean(b.decode) - Boolean(a.decode));
  bar.replaceChildren(...shares.map((s) => {
    const part = paint(el("span", { class: s.decode ? "decode" : "prefill", title: `Request ${s.key}: ${describeShare(s)}` }), s.colour);
    part.style.flexGrow = s.tokens + (s.drafts ?? 0);
    return part;
  }), el("span", { class: "rest" }));
  bar.lastChild.style.flexGrow = Math.max(0, budget - tokens);
  const chips = shares.slice(0, kMostChips).map((s) =>
    paint(el("span", { class: "chip " + (s.decode ? "decode" : "prefill"), dataset: { key: s.key } }, el("b", {}, "#" + s.key), " " + describeShare(s)), s.colour));
  if (shares.length > kMostChips) chips.push(el("span", { class: "chip" }, `and ${shares.length - kMostChips} more`));
  $("batch-list").replaceChildren(...chips);
}

function statusOf(s, share) {
  if (s.status === "finished") return ["finished", { stop: "finished", length: "finished (length)", abort: "cancelled" }[s.reason] ?? "finished"];
  if (s.status === "waiting") return s.preempted ? ["preempted", "preempted"] : ["waiting", "waiting"];
  if (!share) return ["running", "running"];
  return share.decode ? ["decode", "decode"] : ["prefill", "prefill"];
}

export function showRequests(frame) {
  const shares = new Map(frame.batch.map((s) => [s.key, s]));
  const order = { running: 0, finished: 1, waiting: 2 };
  const list = [...frame.sequences].sort((a, b) => order[a.status] - order[b.status] || a.id - b.id || a.index - b.index);
  const longest = Math.max(64, ...list.map((s) => s.prompt + s.output));
  const rows = list.slice(0, kMostRows).map((s) => {
    const [kind, words] = statusOf(s, shares.get(s.key));
    return paint(el("tr", { class: kind, tabIndex: 0, "aria-label": `Request ${s.key}`, dataset: { key: s.key } },
      el("th", { scope: "row" }, el("span", { class: "swatch" }), "#" + s.key),
      el("td", {}, el("span", { class: "badge " + kind }, words)),
      el("td", { class: "grow" }, lengthBar(s, longest)),
      el("td", { class: "number" }, formatNumber(s.prompt)),
      el("td", { class: "number" }, formatNumber(s.output)),
      el("td", { class: "number" }, formatNumber(countBlocks(s.blocks)))), s.colour);
  });
  rows.push(...(frame.queue?.first ?? []).slice(0, Math.max(0, kMostRows - rows.length)).map(queuedRow));
  const focused = document.activeElement?.closest?.("#requests tr")?.dataset.key;
  $("requests").replaceChildren(...(rows.length ? rows : [el("tr", {}, el("td", { colSpan: 6, class: "empty" }, "No requests. Ask something in the chat, or send example requests."))]));
  if (focused) [...$("requests").children].find((row) => row.dataset.key === focused)?.focus();
  const { running } = frame.stats, waiting = waitingIn(frame);
  const hidden = running + waiting - rows.filter((r) => !r.classList.contains("finished")).length;
  $("requests-note").textContent = `${formatNumber(running)} running, ${formatNumber(waiting)} waiting` + (hidden > 0 ? `, ${formatNumber(hidden)} of them not shown` : "");
}

// A request that the engine has not got yet: it has no number, but may have a key.
function queuedRow(q) {
  const what = [q.completions > 1 && plural(q.completions, "completion"), q.priority !== 0 && `priority ${q.priority}`,
    `for ${formatNumber(q.seconds, 1)} s`].filter(Boolean).join(", ");
  return el("tr", { class: "queued" },
    el("th", { scope: "row" }, el("span", { class: "swatch" }), q.key || "–"),
    el("td", {}, el("span", { class: "badge waiting" }, "queued")),
    el("td", { class: "grow" }, what),
    el("td", { class: "number" }, formatNumber(q.prompt)),
    el("td", { class: "number" }, "0"),
    el("td", { class: "number" }, "0"));
}

function countBlocks(runs) {
  let count = 0;
  for (let i = 0; i < runs.length; i += 2) count += Math.abs(runs[i + 1] - runs[i]) + 1;
  return count;
}

// From the left: prompt tokens from the cache, computed ones, those still to compute, output.
function lengthBar(s, longest) {
  const computed = Math.min(s.computed, s.prompt), cached = Math.min(s.fromCache, computed);
  const bar = el("span", { class: "length", role: "img", "aria-label": `${s.computed} of ${s.prompt + s.output} tokens computed` });
  const parts = [["cached", cached], ["computed", computed - cached], ["missing", s.prompt - computed], ["output", Math.min(s.output, Math.max(0, s.computed - s.prompt + 1))], ["missing", Math.max(0, s.output - Math.max(0, s.computed - s.prompt + 1))]];
  for (const [kind, tokens] of parts) {
    if (tokens <= 0) continue;
    const part = el("span", { class: kind });
    part.style.width = (100 * tokens) / longest + "%";
    bar.append(part);
  }
  return bar;
}

const kLegend = [["free", "free"], ["cached", "cached, held by nobody"], ["own", "held by one request, filled as far as it is computed"], ["shared", "shared by several"]];

const kWords = [
  ["Step", "One pass through the model. Every step takes some tokens of many requests at once: that is continuous batching."],
  ["Queued", "Waiting outside the engine, for a slot or for its API key’s turn. Whoever asks little goes before whoever asks a lot."],
  ["Prefill", "Computing the prompt’s tokens, several at a time. A long prompt is cut into chunks, so that it does not hold up the others."],
  ["Decode", "Computing the newest token of an answer, which gives the next one. One token a step, unless tokens are guessed ahead."],
  ["Token budget", "The most tokens of one step. Running decodes get theirs first, prompt chunks fill what is left."],
  ["KV block", "A piece of the key-value cache that holds what the model remembers of a fixed number of consecutive tokens."],
  ["Shared", "Requests that begin alike hold the same blocks for the beginning. It is computed and stored once."],
  ["Cached", "A full block that nobody holds any more, but whose tokens can be found again. The least recently used one is given away first."],
  ["Preempted", "Thrown out because the blocks ran out: the request waits, and what it had is computed again later. No answer changes."],
];

export function startParts() {
  // Whoever is pointed at is lifted out of the block map.
  for (const [part, events] of [["requests", ["pointerover", "focusin"]], ["batch-list", ["pointerover"]]]) {
    for (const name of events) $(part).addEventListener(name, (event) => markSequence(event.target.closest("[data-key]")?.dataset.key ?? null));
    for (const name of ["pointerleave", "focusout"]) $(part).addEventListener(name, () => markSequence(null));
  }
  $("legend").replaceChildren(...kLegend.map(([kind, text]) => el("li", {}, el("span", { class: "cell " + kind, "aria-hidden": "true" }), text)));
  $("words").replaceChildren(...kWords.map(([word, text]) => el("div", {}, el("dt", {}, word), el("dd", {}, text))));
}
