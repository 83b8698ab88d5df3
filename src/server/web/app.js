// The page's frame: which view is open, the drawers, and whether the server is there.
import { getJson } from "./api.js";
import { setModel, startChat } from "./chat.js";
import { $ } from "./dom.js";
import { closeEngine, openEngine } from "./engine.js";
import { startSettings } from "./settings.js";

const kHealthEvery = 5000;  // ms

function showView() {
  const engine = location.hash === "#engine";
  $("chat").hidden = engine;
  $("engine").hidden = !engine;
  document.body.dataset.view = engine ? "engine" : "chat";
  for (const [id, current] of [["tab-chat", !engine], ["tab-engine", engine]])
    current ? $(id).setAttribute("aria-current", "page") : $(id).removeAttribute("aria-current");
  document.title = (engine ? "Engine" : "Chat") + " – nano-vLLM";
  closeDrawers();
  engine ? openEngine() : closeEngine();
}

// Drawers: the settings always, the conversations where there is no room beside the chat.
const kDrawers = [["open-settings", "settings"], ["open-conversations", "conversations"]];

function toggleDrawer(button, drawer) {
  const open = $(button).getAttribute("aria-expanded") !== "true";
  closeDrawers();
  if (!open) return;
  $(button).setAttribute("aria-expanded", "true");
  $(drawer).hidden = false;
  $(drawer).classList.add("open");
  $("backdrop").hidden = false;
  $(drawer).querySelector("button, input, textarea")?.focus();
}

function closeDrawers() {
  for (const [button, drawer] of kDrawers) {
    if ($(button).getAttribute("aria-expanded") !== "true") continue;
    const inside = $(drawer).contains(document.activeElement);
    $(button).setAttribute("aria-expanded", "false");
    $(drawer).classList.remove("open");
    if (drawer === "settings") $(drawer).hidden = true;
    if (inside) $(button).focus();
  }
  $("backdrop").hidden = true;
}

let known = null;  // the model, once the server has been reached

async function checkServer() {
  try {
    const model = await getJson("/web/model.json");
    $("server").dataset.state = "up";
    $("model-name").textContent = model.name;
    $("server").title = `nano-vLLM ${model.version}, ${model.max_model_len} tokens of context`;
    if (JSON.stringify(model) !== known) {
      known = JSON.stringify(model);
      setModel({ name: model.name, chat: model.has_chat_template, defaults: model.defaults });
      startSettings(model);
    }
  } catch {
    $("server").dataset.state = "down";
    $("model-name").textContent = "the server cannot be reached";
  }
  setTimeout(checkServer, document.hidden ? 4 * kHealthEvery : kHealthEvery);
}

for (const [button, drawer] of kDrawers) $(button).addEventListener("click", () => toggleDrawer(button, drawer));
$("backdrop").addEventListener("click", closeDrawers);
document.addEventListener("close-drawers", closeDrawers);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") closeDrawers(); });
$("theme").addEventListener("click", () => window.toggleTheme());
addEventListener("hashchange", showView);
startSettings(null);
startChat();
showView();
checkServer();
