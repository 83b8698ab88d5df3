// The engine view: listens to the steps while it is open, shows the latest or the one the slider
// points at, and pauses the engine or steps it.
import { events, getJson, postJson } from "./api.js";
import { showBlocks, startBlocks } from "./block_map.js";
import { drawChart } from "./chart.js";
import { $, announce, formatNumber, icon } from "./dom.js";
import { showBatch, showRequests, showTiles, startParts } from "./engine_parts.js";
import { sendExample } from "./examples.js";
import { Frames, sameRequests } from "./frames.js";
import { cssColour } from "./palette.js";

const kDrawEvery = 60, kAskEvery = 700, kRetryAfter = 1500;  // ms
const kSpan = 60, kBin = 0.5;                                // seconds of the charts

const frames = new Frames();
let config = null;       // what the server says of its cache and budget
let paused = false;
let chosen = null;       // the frame the slider points at; null: the latest
let stream = null;       // AbortController of the open connection
let visible = false, started = false;
let heard = 0, clock = 0;  // when the last frame came, and the server's time in it
let drawTimer = 0, askTimer = 0;

export function openEngine() {
  visible = true;
  if (!started) start();
  if (!stream) listen();
  draw();
}

export function closeEngine() {
  visible = false;
  // While it is paused the connection stays: without a viewer the engine goes on by itself.
  if (!paused) hangUp();
}

function hangUp() {
  stream?.abort();
  stream = null;
  clearTimeout(askTimer);
}

function start() {
  started = true;
  startBlocks();
  startParts();
  $("pause").addEventListener("click", () => command(paused ? "resume" : "pause"));
  $("single-step").addEventListener("click", () => { chosen = null; command("step"); });
  $("follow").addEventListener("click", () => { chosen = null; draw(); });
  $("history").addEventListener("input", () => {
    const i = Number($("history").value);
    chosen = i >= frames.list.length - 1 ? null : frames.list[i];
    draw();
  });
  $("example").addEventListener("change", async () => {
    const name = $("example").value;
    $("example").value = "";
    try { await sendExample(name, config); } catch (error) { notice(error.message); }
  });
  setInterval(() => { if (visible && !document.hidden && !chosen) drawCharts(); }, 500);
  // A page that the browser keeps for the way back must not go on watching.
  addEventListener("pagehide", hangUp);
  addEventListener("pageshow", (event) => { if (event.persisted && visible) openEngine(); });
  addEventListener("themechange", draw);
  addEventListener("resize", draw);
}

async function listen() {
  const mine = stream = new AbortController();
  while (stream === mine) {
    try {
      for await (const { event, data } of events("/engine/steps", { signal: mine.signal })) receive(event, JSON.parse(data));
      notice("The server has closed the connection.");
    } catch (error) {
      if (stream !== mine) return;
      notice(error.message);
      if (error.status === 401 || error.status === 403) { stream = null; return; }
    }
    setPaused(false);
    await new Promise((resume) => setTimeout(resume, kRetryAfter));
  }
}

function receive(event, data) {
  if (event === "hello") {
    notice("");
    config = data;
    frames.clear();
    chosen = null;
    setPaused(data.paused);
    askState();
  } else if (event === "step") {
    addFrame(data);
    askLater();
  } else if (event === "paused") {
    setPaused(data.paused);
    askState();
  }
}

function addFrame(frame) {
  frames.add(frame);
  heard = performance.now();
  clock = frame.start + frame.seconds;
  draw();
}

// Requests come and go between two steps too. While there are no steps the state is asked for.
function askLater() {
  clearTimeout(askTimer);
  askTimer = setTimeout(askState, kAskEvery);
}

async function askState() {
  clearTimeout(askTimer);
  if (!stream) return;
  try {
    if (!document.hidden) {
      const { frame } = await getJson("/engine/state");
      // While it is paused the step that was taken stays in view until something changes.
      const last = frames.list.at(-1);
      if (!last || frame.step > last.step || (frame.step === last.step && !(paused && sameRequests(frame, last)))) addFrame(frame);
    }
  } catch { /* the stream will tell */ }
  if (stream) askLater();
}

async function command(name) {
  try {
    await postJson("/engine/" + name, {});  // the stream tells what came of it, in the right order
    askLater();
  } catch (error) {
    notice(error.message);
  }
}

function setPaused(now) {
  const changed = paused !== now;
  paused = now;
  document.body.classList.toggle("paused", paused);
  $("pause").replaceChildren(icon(paused ? "play" : "pause"), Object.assign(document.createElement("span"), { textContent: paused ? "Resume" : "Pause" }));
  $("pause").setAttribute("aria-pressed", paused);
  if (changed) {
    announce(paused ? "The engine is paused." : "The engine is running.");
    notice(paused ? "The engine is paused, for everybody: requests wait until it goes on. It goes on by itself when the last viewer leaves." : "");
  }
  if (!visible && !paused) hangUp();
}

function notice(text) {
  $("engine-notice").textContent = text;
  $("engine-notice").hidden = !text;
}

function draw() {
  if (drawTimer || !visible) return;
  drawTimer = setTimeout(() => { drawTimer = 0; requestAnimationFrame(drawNow); }, kDrawEvery);
}

function drawNow() {
  if (!visible || !config) return;
  const list = frames.list;
  if (chosen && !list.includes(chosen)) chosen = list[0] ?? null;  // it has left the list
  const frame = chosen ?? list.at(-1);
  const slider = $("history");
  slider.max = Math.max(0, list.length - 1);
  slider.value = chosen ? list.indexOf(chosen) : slider.max;
  slider.disabled = list.length < 2;
  $("follow").hidden = !chosen;
  $("blocks-note").textContent = `${formatNumber(config.num_blocks)} blocks of ${config.block_size} tokens`;
  if (!frame) return;
  $("step-label").textContent = frame.step === 0 ? "no step yet"
    : frame.snapshot ? `after step ${formatNumber(frame.step)}` : `step ${formatNumber(frame.step)}` + (chosen ? ` of ${formatNumber(list.at(-1).step)}` : "");
  slider.setAttribute("aria-valuetext", $("step-label").textContent);
  showTiles(frame, config, speedAt(frame));
  showBatch(frame, config);
  showRequests(frame);
  showBlocks(frame, config);
  drawCharts();
}

const now = () => clock + (paused || !heard ? 0 : (performance.now() - heard) / 1000);
const speedAt = (frame) => frames.rate("output", chosen ? frame.start + frame.seconds : now(), 1);

function drawCharts() {
  drawChart($("chart-output"), frames.rates("output", kSpan, kBin, now()), cssColour("--accent"), kSpan);
  drawChart($("chart-prompt"), frames.rates("prompt", kSpan, kBin, now()), cssColour("--second"), kSpan);
}
