// Colours of sequences: Okabe and Ito's seven, which colour-blind people can tell apart, then the
// same with stripes.

const kHues = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800"];
const patterns = new Map();

export const hueOf = (colour) => kHues[(colour ?? 0) % kHues.length];
export const isStriped = (colour) => (colour ?? 0) >= kHues.length;

// For a canvas.
export function fillOf(g, colour) {
  if (colour === undefined || !isStriped(colour)) return hueOf(colour);
  if (!patterns.has(colour)) {
    const tile = new OffscreenCanvas(6, 6), t = tile.getContext("2d");
    t.fillStyle = hueOf(colour);
    t.fillRect(0, 0, 6, 6);
    t.strokeStyle = "rgba(255,255,255,0.75)";
    t.lineWidth = 1.5;
    t.beginPath();
    for (const from of [-6, 0, 6]) { t.moveTo(from, 6); t.lineTo(from + 6, 0); }
    t.stroke();
    patterns.set(colour, g.createPattern(tile, "repeat"));
  }
  return patterns.get(colour);
}

// For an element: sets what style.css makes a colour of.
export function paint(node, colour) {
  node.style.setProperty("--own", colour === undefined ? "var(--line)" : hueOf(colour));
  node.classList.toggle("striped", colour !== undefined && isStriped(colour));
  return node;
}

let known = new Map();
addEventListener("themechange", () => { known = new Map(); });

// The value of a custom property of the page.
export function cssColour(name) {
  if (!known.has(name)) known.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return known.get(name);
}
