// A chart of a rate over the last minute: an area under a line, with the scale's top and the latest
// value in words.
import { formatNumber } from "./dom.js";
import { cssColour } from "./palette.js";

// A round number that is at least value.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 2.5, 5, 10].map((m) => m * power).find((top) => top >= value);
}

export function drawChart(canvas, values, colour, span) {
  const width = canvas.clientWidth, height = canvas.clientHeight, scale = devicePixelRatio || 1;
  if (!width) return;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const g = canvas.getContext("2d");
  g.scale(scale, scale);
  const left = 44, bottom = height - 18, top = 8, right = width - 4;
  const most = roundUp(Math.max(10, ...values) * 1.02);
  const x = (i) => left + ((right - left) * i) / Math.max(1, values.length - 1);
  const y = (v) => bottom - ((bottom - top) * v) / most;
  g.font = "11px system-ui, sans-serif";
  g.textBaseline = "middle";
  for (const v of [0, most / 2, most]) {
    g.strokeStyle = cssColour("--line");
    g.beginPath();
    g.moveTo(left, Math.round(y(v)) + 0.5);
    g.lineTo(right, Math.round(y(v)) + 0.5);
    g.stroke();
    g.fillStyle = cssColour("--muted");
    g.textAlign = "right";
    g.fillText(formatNumber(v), left - 8, y(v));
  }
  g.textBaseline = "alphabetic";
  g.textAlign = "left";
  g.fillText(`${span} s ago`, left, height - 3);
  g.textAlign = "right";
  g.fillText("now", right, height - 3);
  if (!values.length) return;
  g.beginPath();
  values.forEach((v, i) => g.lineTo(x(i), y(v)));
  g.strokeStyle = colour;
  g.lineWidth = 2;
  g.lineJoin = "round";
  g.stroke();
  g.lineTo(right, bottom);
  g.lineTo(left, bottom);
  g.globalAlpha = 0.16;
  g.fillStyle = colour;
  g.fill();
  g.globalAlpha = 1;
}
