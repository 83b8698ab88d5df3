// What stays in this browser: settings and conversations. Every conversation has a key of its own,
// so that two windows do not overwrite each other's. Without storage (a private window, a full
// disk) everything works until the page is closed.

const kPrefix = "nano-vllm.";
const kConversation = kPrefix + "conversation.";

function read(key, fallback) {
  try { return JSON.parse(localStorage.getItem(key)) ?? fallback; } catch { return fallback; }
}

// False: it could not be kept.
function write(key, value) {
  try { localStorage.setItem(key, JSON.stringify(value)); return true; } catch { return false; }
}

const kDefaults = { system: "", temperature: "", top_p: "", top_k: "", max_tokens: "", seed: "", rememberKey: false, apiKey: "" };
export const settings = { ...kDefaults, ...read(kPrefix + "settings", {}) };

export function saveSettings() {
  const kept = { ...settings };
  if (!settings.rememberKey) kept.apiKey = "";
  write(kPrefix + "settings", kept);
}

// A conversation: {id, title, changed, messages: [{role, content, stats?, error?, note?}]}
const memory = new Map();

export function listConversations() {
  try {
    for (const key of Object.keys(localStorage)) {
      if (!key.startsWith(kConversation)) continue;
      const c = read(key, null);
      if (c && typeof c.id === "string" && Array.isArray(c.messages) && !memory.has(c.id)) memory.set(c.id, c);
    }
  } catch { /* no storage */ }
  return [...memory.values()].sort((a, b) => b.changed - a.changed);
}

export function newConversation() {
  return { id: Date.now().toString(36) + Math.random().toString(36).slice(2, 8), title: "", changed: Date.now(), messages: [] };
}

export function saveConversation(conversation) {
  memory.set(conversation.id, conversation);
  return write(kConversation + conversation.id, conversation);
}

export function deleteConversation(id) {
  memory.delete(id);
  try { localStorage.removeItem(kConversation + id); } catch { /* no storage */ }
}

// Calls f(id) when another window has changed or deleted a conversation.
export function watchConversations(f) {
  addEventListener("storage", (event) => {
    if (!event.key?.startsWith(kConversation)) return;
    const id = event.key.slice(kConversation.length);
    memory.delete(id);
    f(id);
  });
}

export const lastConversation = {
  get: () => read(kPrefix + "last", ""),
  set: (id) => write(kPrefix + "last", id),
};
