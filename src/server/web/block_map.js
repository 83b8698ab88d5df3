// The map of KV blocks: one cell a block, in the colours of those who hold it. A canvas, because
// there are thousands; hovering or the arrow keys tell about one.
import { $, onceAFrame } from "./dom.js";
import { blocksOf } from "./frames.js";
import { cssColour, fillOf } from "./palette.js";

const kGap = 2, kSmallest = 5, kLargest = 26;

let frame = null, config = null, blocks = null;
let columns = 1, cell = kSmallest, chosen = -1, marked = null;

export function showBlocks(next, nextConfig) {
  frame = next;
  config = nextConfig;
  if (!frame?.sequences.some((s) => s.key === marked)) marked = null;
  blocks = frame ? blocksOf(frame, config.num_blocks) : null;
  draw();
  if (chosen >= 0 && !$("block-tip").hidden) tell(chosen, false);
}

// Lifts one sequence out, or none (null).
export function markSequence(key) {
  if (marked === key) return;
  marked = key;
  draw();
}

// The largest cell with which all blocks fit into a pleasant height.
function layOut(width) {
  const wanted = Math.min(560, innerHeight * 0.6);
  for (cell = kLargest; cell > kSmallest; --cell) {
    columns = Math.max(1, Math.floor((width + kGap) / (cell + kGap)));
    if (Math.ceil(config.num_blocks / columns) * (cell + kGap) <= wanted) break;
  }
  columns = Math.max(1, Math.floor((width + kGap) / (cell + kGap)));
  return Math.ceil(config.num_blocks / columns) * (cell + kGap);
}

const draw = onceAFrame(() => {
  const canvas = $("blocks");
  const width = canvas.parentElement.clientWidth;
  if (!config || !width) return;
  const height = layOut(width), scale = devicePixelRatio || 1;
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const g = canvas.getContext("2d");
  g.scale(scale, scale);
  for (let id = 0; id < config.num_blocks; ++id) drawCell(g, id, (id % columns) * (cell + kGap), Math.floor(id / columns) * (cell + kGap));
});

function drawCell(g, id, x, y) {
  const owners = blocks?.owners[id], cached = blocks?.cached[id];
  const faded = marked && !owners?.some((o) => o.sequence.key === marked);
  g.globalAlpha = faded ? 0.25 : 1;
  if (!owners) {
    g.fillStyle = cssColour(cached ? "--block-cached" : "--block-free");
    g.fillRect(x, y, cell, cell);
    if (cached) drawDot(g, x, y, cssColour("--block-cached-mark"));
  } else {
    g.fillStyle = cssColour("--block-free");
    g.fillRect(x, y, cell, cell);
    const shown = owners.slice(0, 4);
    shown.forEach(({ sequence, place }, i) => {
      // Filled from the left as its tokens are computed.
      const tokens = Math.min(config.block_size, Math.max(0, sequence.computed - place * config.block_size));
      g.fillStyle = fillOf(g, sequence.colour);
      const part = cell / shown.length;
      g.globalAlpha = (faded ? 0.25 : 1) * 0.35;
      g.fillRect(x, y + i * part, cell, part);
      g.globalAlpha = faded ? 0.25 : 1;
      g.fillRect(x, y + i * part, Math.max(1, (cell * tokens) / config.block_size), part);
    });
    if (owners.length > 1) {
      g.strokeStyle = cssColour("--block-shared");
      g.lineWidth = cell > 9 ? 2 : 1.5;
      g.strokeRect(x + g.lineWidth / 2, y + g.lineWidth / 2, cell - g.lineWidth, cell - g.lineWidth);
    }
  }
  g.globalAlpha = 1;
  if (id === chosen) {
    g.strokeStyle = cssColour("--focus");
    g.lineWidth = 2;
    g.strokeRect(x - 1, y - 1, cell + 2, cell + 2);
  }
}

function drawDot(g, x, y, colour) {
  const size = Math.max(2, Math.round(cell / 4));
  g.fillStyle = colour;
  g.fillRect(x + Math.round((cell - size) / 2), y + Math.round((cell - size) / 2), size, size);
}

// What there is to say about a block, in words.
export function describeBlock(id) {
  const owners = blocks?.owners[id], cached = blocks?.cached[id];
  if (!owners) return `Block ${id}: ` + (cached ? "cached and free. Its tokens can be found again until somebody else needs the block." : "free.");
  const size = config.block_size;
  const who = owners.slice(0, 6).map(({ sequence, place }) => {
    const end = Math.min(sequence.computed, (place + 1) * size);
    return `request ${sequence.key}, ` + (end > place * size ? `tokens ${place * size} to ${end - 1}` : "no token computed yet");
  });
  if (owners.length > 6) who.push(`and ${owners.length - 6} more`);
  return `Block ${id}: ${owners.length === 1 ? "1 reference" : owners.length + " references, shared"}${cached ? ", cached" : ""}. ${who.join("; ")}.`;
}

function tell(id, aloud) {
  chosen = id;
  const tip = $("block-tip");
  tip.hidden = id < 0;
  if (id >= 0) {
    tip.textContent = describeBlock(id);
    const x = (id % columns) * (cell + kGap), y = Math.floor(id / columns) * (cell + kGap);
    const width = $("blocks").parentElement.clientWidth;
    tip.style.left = Math.max(0, Math.min(x, width - tip.offsetWidth)) + "px";
    tip.style.top = y + cell + 6 + "px";
    if (aloud) $("block-live").textContent = tip.textContent;
  }
  draw();
}

export function startBlocks() {
  const canvas = $("blocks");
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / (cell + kGap)), row = Math.floor((event.clientY - box.top) / (cell + kGap));
    const id = row * columns + column;
    return config && column >= 0 && column < columns && id >= 0 && id < config.num_blocks ? id : -1;
  };
  canvas.addEventListener("pointermove", (event) => { const id = at(event); if (id !== chosen) tell(id, false); });
  canvas.addEventListener("pointerdown", (event) => tell(at(event), false));
  canvas.addEventListener("pointerleave", () => tell(-1, false));
  canvas.addEventListener("blur", () => tell(-1, false));
  canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible") && config) tell(Math.max(0, chosen), true); });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !config) return;
    event.preventDefault();
    const last = config.num_blocks - 1, step = steps[event.key], next = chosen + step;
    tell(Math.abs(step) === columns && (next < 0 || next > last) ? chosen : Math.min(last, Math.max(0, next)), true);
  });
  addEventListener("resize", draw);
  addEventListener("themechange", draw);
}
