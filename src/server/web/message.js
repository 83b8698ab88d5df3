// One message of a conversation: text or Markdown, what may be done with it, and its figures.
import { copyText, el, formatNumber, iconButton } from "./dom.js";
import { renderMarkdown } from "./markdown.js";

// actions: {edit(text), regenerate(), retry()}; those that do not apply are absent.
export function messageNode(message, actions) {
  const body = el("div", { class: "body" });
  const footer = el("footer");
  const node = el("article", { class: "message " + message.role, "aria-label": message.role === "user" ? "You" : "Answer" }, body, footer);
  node.update = (running) => {
    node.classList.toggle("running", running);
    node.setAttribute("aria-busy", running);
    if (message.role === "user") {
      if (body.textContent !== message.content) body.replaceChildren(message.content);
    } else {
      renderMarkdown(body, message.content);
    }
    footer.replaceChildren(...footerOf(message, running, actions, node));
  };
  node.update(false);
  return node;
}

function footerOf(message, running, actions, node) {
  const parts = [];
  if (message.error) {
    parts.push(el("p", { class: "error", role: "alert" }, message.error,
                  actions.retry && el("button", { type: "button", class: "button", onclick: actions.retry }, "Try again")));
  }
  if (running) return [...parts, el("p", { class: "figures" }, figures(message.stats))];
  const tools = el("span", { class: "tools" });
  if (actions.edit) tools.append(iconButton("edit", "Edit this message and ask again", () => edit(message, actions, node)));
  if (message.content) {
    const copy = iconButton("copy", "Copy this message", async () => {
      await copyText(message.content);
      copy.classList.add("done");
      setTimeout(() => copy.classList.remove("done"), 1200);
    });
    tools.append(copy);
  }
  if (actions.regenerate) tools.append(iconButton("retry", "Answer again", actions.regenerate));
  parts.push(el("div", { class: "line" }, tools, el("span", { class: "figures" }, figures(message.stats), message.note ? " · " + message.note : "")));
  return parts;
}

// "42.1 tokens/s · first token after 0.21 s · 132 tokens"
function figures(stats) {
  if (!stats) return "";
  const parts = [];
  if (stats.speed) parts.push(formatNumber(stats.speed, stats.speed < 100 ? 1 : 0) + " tokens/s");
  if (stats.firstToken !== undefined) parts.push("first token after " + formatNumber(stats.firstToken, 2) + " s");
  if (stats.tokens) parts.push(formatNumber(stats.tokens) + (stats.tokens === 1 ? " token" : " tokens"));
  if (stats.cached) parts.push(`${formatNumber(stats.cached)} of ${formatNumber(stats.prompt)} prompt tokens from the cache`);
  return parts.join(" · ");
}

function edit(message, actions, node) {
  const area = el("textarea", { value: message.content, "aria-label": "Edit the message" });
  const done = () => { form.replaceWith(node); node.querySelector("button")?.focus(); };
  const form = el("form", { class: "message user editing", onsubmit: (event) => {
    event.preventDefault();
    const text = area.value.trim();
    if (text) actions.edit(text);
  } }, area, el("div", { class: "line end" },
    el("button", { type: "button", class: "button quiet", onclick: done }, "Cancel"),
    el("button", { type: "submit", class: "button primary" }, "Ask again")));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); done(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
  });
  node.replaceWith(form);
  area.style.height = Math.min(area.scrollHeight + 4, innerHeight / 2) + "px";
  area.focus();
  area.setSelectionRange(area.value.length, area.value.length);
}
