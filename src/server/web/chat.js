// The chat view: a conversation, the box to write in, and the list of conversations.
import { ask } from "./answer.js";
import { $, announce, el, iconButton, onceAFrame } from "./dom.js";
import { messageNode } from "./message.js";
import { deleteConversation, lastConversation, listConversations, newConversation, saveConversation, watchConversations } from "./store.js";

let model = { name: "", chat: true, defaults: {} };
let conversation = newConversation();
let running = null;  // {controller, answer, node}: the answer under way

const kSaveEvery = 1000;  // ms, while an answer grows

export function setModel(next) {
  model = next;
  $("prompt").placeholder = model.chat ? "Message" : "Text to go on with";
  $("composer-hint").textContent = model.chat ? "Enter sends, Shift+Enter begins a new line."
    : "This model has no chat template: it goes on with your text. Enter sends, Shift+Enter begins a new line.";
  if (conversation.messages.length === 0) renderMessages();
}

export function startChat() {
  open(listConversations().find((c) => c.id === lastConversation.get()) ?? newConversation());
  $("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  $("prompt").addEventListener("keydown", (event) => {
    // A phone's Enter is a new line; isComposing: it belongs to the input method.
    const phone = matchMedia("(pointer: coarse) and (max-width: 700px)").matches;
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !phone) { event.preventDefault(); send(); }
  });
  $("prompt").addEventListener("input", fitPrompt);
  $("stop").addEventListener("click", stop);
  $("new-chat").addEventListener("click", () => { open(newConversation()); $("prompt").focus(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && running) stop(); });
  watchConversations((id) => {
    if (running && id === conversation.id) return;
    const changed = listConversations().find((c) => c.id === id);
    if (id === conversation.id && changed) open(changed); else renderList();
  });
  addEventListener("pagehide", () => { if (running) saveConversation(conversation); });
}

function fitPrompt() {
  const area = $("prompt");
  area.style.height = "auto";
  area.style.height = Math.min(area.scrollHeight, innerHeight * 0.4) + "px";
}

function open(next) {
  stop();
  conversation = next;
  lastConversation.set(conversation.id);
  renderList();
  renderMessages();
}

function save() {
  conversation.changed = Date.now();
  if (!conversation.title) conversation.title = (conversation.messages[0]?.content ?? "").trim().split("\n")[0].slice(0, 60);
  saveConversation(conversation);
}

function send(text = $("prompt").value.trim()) {
  if (!text || running) return;
  $("prompt").value = "";
  fitPrompt();
  conversation.messages.push({ role: "user", content: text });
  answer();
}

function stop() { running?.controller.abort(); }

// Answers the last message.
async function answer() {
  const mine = conversation, last = { role: "assistant", content: "" };
  const asked = [...mine.messages];
  mine.messages.push(last);
  save();
  renderList();
  const run = running = { controller: new AbortController(), answer: last };
  renderMessages();
  $("send").hidden = true;
  $("stop").hidden = false;
  const show = onceAFrame(() => {
    if (running !== run || conversation !== mine) return;
    const near = nearEnd();
    run.node.update(true);
    if (near) scrollToEnd();
  });
  let saved = performance.now();
  const changed = () => {
    show();
    if (performance.now() - saved < kSaveEvery) return;
    saved = performance.now();
    saveConversation(mine);
  };
  try {
    await ask(model, asked, last, changed, run.controller.signal);
  } catch (error) {
    if (error.name === "AbortError") last.note = "stopped";
    else last.error = error.message;
  }
  if (running === run) running = null;
  mine.changed = Date.now();
  saveConversation(mine);
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  if (conversation === mine) {
    const near = nearEnd();
    renderMessages(false);
    if (near) scrollToEnd();
  }
  renderList();
  announce(last.error ? last.error : last.note === "stopped" ? "Stopped." : "Answer: " + last.content.slice(0, 2000));
}

// Drops this message and what follows it, and asks again.
function answerFrom(index) {
  stop();
  running = null;
  conversation.messages.length = index;
  answer();
}

function editAt(index, text) {
  stop();
  running = null;
  conversation.messages.length = index;
  conversation.messages.push({ role: "user", content: text });
  answer();
}

const nearEnd = () => { const m = $("messages"); return m.scrollHeight - m.scrollTop - m.clientHeight < 80; };
const scrollToEnd = () => { const m = $("messages"); m.scrollTop = m.scrollHeight; };

function renderMessages(toEnd = true) {
  const nodes = conversation.messages.map((message, i) => {
    const isRunning = running?.answer === message, isLast = i === conversation.messages.length - 1;
    const again = () => answerFrom(i);
    const node = messageNode(message, message.role === "user" ? { edit: (text) => editAt(i, text) }
      : { regenerate: isLast ? again : null, retry: isLast ? again : null });
    if (isRunning) { running.node = node; node.update(true); }
    return node;
  });
  $("messages").replaceChildren(...(nodes.length ? nodes : [welcome()]));
  if (toEnd) scrollToEnd();
}

const kSuggestions = {
  chat: ["Explain what a KV cache is, in three sentences.", "Write a Python function that checks whether a word is a palindrome.", "Make a table of three rivers and their lengths."],
  text: ["Once upon a time", "The capital of France is", "def fibonacci(n):"],
};

function welcome() {
  const suggestions = model.chat ? kSuggestions.chat : kSuggestions.text;
  return el("div", { class: "welcome" },
    el("h1", {}, model.chat ? "What would you like to know?" : "Begin a text"),
    el("p", {}, model.name ? (model.chat ? "You are talking to " : "It is continued by ") : "", el("strong", {}, model.name)),
    el("div", { class: "suggestions" }, ...suggestions.map((text) => el("button", { type: "button", class: "button", onclick: () => send(text) }, text))));
}

function renderList() {
  const stored = listConversations();
  $("conversation-list").replaceChildren(...stored.map((c) => {
    const open_ = el("button", { type: "button", class: "title", "aria-current": c.id === conversation.id ? "true" : null,
                                 onclick: () => { open(c); document.dispatchEvent(new Event("close-drawers")); } }, c.title || "Untitled");
    const item = el("li", {}, open_,
      iconButton("edit", "Rename: " + c.title, () => rename(c, item)),
      iconButton("trash", "Delete: " + c.title, () => remove(c)));
    return item;
  }));
}

function rename(c, item) {
  const input = el("input", { value: c.title, "aria-label": "New name", maxLength: 100 });
  let done = false;
  const finish = (keep) => {
    if (done) return;
    done = true;
    if (keep && input.value.trim()) { c.title = input.value.trim(); saveConversation(c); }
    renderList();
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") finish(true);
    if (event.key === "Escape") { event.stopPropagation(); finish(false); }
  });
  input.addEventListener("blur", () => finish(true));
  item.replaceChildren(input);
  input.select();
}

function remove(c) {
  if (!confirm(`Delete “${c.title || "Untitled"}”? It is kept nowhere else.`)) return;
  if (c.id === conversation.id) { stop(); running = null; conversation = newConversation(); renderMessages(); }
  deleteConversation(c.id);
  renderList();
  $("new-chat").focus();
}
