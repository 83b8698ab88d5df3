// Small helpers for building pages from nodes. Text always becomes a text node; nothing here or
// elsewhere turns a string into markup.

export const $ = (id) => document.getElementById(id);

// el("a", {href: "…", class: "x", onclick: f}, "text", node, …)
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (name in node && !["list", "type"].includes(name)) node[name] = value;
    else node.setAttribute(name === "class" ? "class" : name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const kSvg = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(kSvg, "svg");
  const use = document.createElementNS(kSvg, "use");
  use.setAttribute("href", "#i-" + name);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export function iconButton(name, label, onclick) {
  return el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick }, icon(name));
}

let announced;
// Says something to those who listen to the page instead of looking at it.
export function announce(text) {
  clearTimeout(announced);
  $("announce").textContent = "";
  announced = setTimeout(() => { $("announce").textContent = text; }, 50);
}

// At most one call of f a frame, with the latest state.
export function onceAFrame(f) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; f(); });
  };
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // pages that did not come by HTTPS or from this machine have no clipboard
    const area = el("textarea", { value: text, class: "visually-hidden" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

export function formatNumber(value, digits = 0) {
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
