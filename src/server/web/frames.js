// The steps that the server tells of, kept for the slider, and what can be said of one of them.
//
// A frame is {step, start, seconds, phases, batch, sequences, cached, stats}; sequences hold their
// blocks, and `cached` the findable ones, as runs [first, last, first, last, …], which may count down.
// `queue` is what waits outside the engine: {count, first}.

export const kKept = 200;
export const kColours = 14;

export const keyOf = (s) => (s.index ? `${s.id}.${s.index + 1}` : String(s.id));

function expand(runs) {
  const ids = [];
  for (let i = 0; i < runs.length; i += 2) {
    const step = runs[i] <= runs[i + 1] ? 1 : -1;
    for (let id = runs[i]; id !== runs[i + 1] + step; id += step) ids.push(id);
  }
  return ids;
}

export class Frames {
  constructor() { this.clear(); }

  clear() {
    this.list = [];       // of steps, oldest first
    this.samples = [];    // [{time, prompt, output}]: totals, for the speed
    this.colours = new Map();
    this.fromCache = new Map();  // tokens a sequence found in the cache
    this.seen = new Set();       // sequences that have run
  }

  // A step, or the state between two (its batch is empty), which takes the place of the one before.
  add(frame) {
    const last = this.list.at(-1);
    if (last && frame.step < last.step) this.clear();  // the server began anew
    if (last && frame.step === last.step && frame.batch.length) return;
    if (last?.snapshot) this.list.pop();
    frame.snapshot = frame.batch.length === 0;
    this.colour(frame);
    this.list.push(frame);
    if (this.list.length > kKept) this.list.shift();
    const time = frame.start + frame.seconds;
    this.samples.push({ time, prompt: frame.stats.prompt_tokens_computed, output: frame.stats.tokens_generated });
    while (this.samples.length > 2 && this.samples[1].time < time - 65) this.samples.shift();
  }

  // Gives every sequence that holds blocks the lowest colour that no other one has, for as long as
  // it lives, and notes what is known of it.
  colour(frame) {
    const alive = new Set(frame.sequences.map(keyOf));
    for (const map of [this.colours, this.fromCache])
      for (const key of map.keys()) if (!alive.has(key)) map.delete(key);
    for (const key of this.seen) if (!alive.has(key)) this.seen.delete(key);
    const used = new Set(this.colours.values());
    for (const s of frame.sequences) {
      const key = s.key = keyOf(s);
      s.preempted = s.status === "waiting" && (s.output > 0 || this.seen.has(key));
      if (s.status === "running") this.seen.add(key);
      if (s.status !== "waiting" && !this.colours.has(key)) {
        let c = 0;
        while (used.has(c) && c < kColours - 1) ++c;
        if (used.has(c)) c = this.colours.size % kColours;
        this.colours.set(key, c);
        used.add(c);
      }
      s.colour = this.colours.get(key);
    }
    for (const share of frame.batch) {
      share.key = keyOf(share);
      share.colour = this.colours.get(share.key);
      if (share.cached) this.fromCache.set(share.key, share.cached);
    }
    for (const s of frame.sequences) s.fromCache = this.fromCache.get(s.key) ?? 0;
  }

  // The total of what ("output" or "prompt" tokens) at that time, between the samples around it.
  total(what, time) {
    const list = this.samples;
    if (!list.length || time <= list[0].time) return list[0]?.[what] ?? 0;
    let i = list.length - 1;
    while (i > 0 && list[i].time > time) --i;
    const a = list[i], b = list[i + 1];
    return b ? a[what] + ((b[what] - a[what]) * (time - a.time)) / (b.time - a.time) : a[what];
  }

  // Tokens a second over the `width` seconds before that time.
  rate(what, time, width) {
    return (this.total(what, time) - this.total(what, time - width)) / width;
  }

  // The same in bins of `width` seconds over the last `span`, oldest first.
  rates(what, span, width, now) {
    const rates = [];
    const end = Math.floor(now / width) * width;
    for (let time = end - span + width; time < end + width / 2; time += width) rates.push(this.rate(what, time, width));
    return rates;
  }
}

// Whether the same requests live in both, and are as far.
export function sameRequests(a, b) {
  const live = (frame) => frame.sequences.filter((s) => s.status !== "finished").map((s) => [s.id, s.index, s.status, s.computed, s.output].join(" ")).join();
  return live(a) === live(b) && a.queue?.count === b.queue?.count;
}

// Who holds each block: [[{sequence, place}, …] or undefined, …] by block id, and which are cached.
export function blocksOf(frame, count) {
  const owners = new Array(count), cached = new Uint8Array(count);
  for (const sequence of frame.sequences)
    expand(sequence.blocks).forEach((id, place) => (owners[id] ??= []).push({ sequence, place }));
  for (const id of expand(frame.cached)) cached[id] = 1;
  return { owners, cached };
}

export function totals(frame) {
  let prefill = 0, decode = 0, chunks = 0, decodes = 0;
  for (const s of frame.batch) {
    const tokens = s.tokens + (s.drafts ?? 0);
    if (s.decode) { decode += tokens; ++decodes; } else { prefill += tokens; ++chunks; }
  }
  return { prefill, decode, chunks, decodes, tokens: prefill + decode };
}
