// The settings drawer: how answers are sampled, and the API key.
import { $, el, iconButton } from "./dom.js";
import { saveSettings, settings } from "./store.js";

const kNumbers = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, help: "0 always takes the likeliest token." },
  { name: "top_p", label: "Top p", min: 0.01, max: 1, step: 0.01, help: "Only the likeliest tokens that together reach this." },
  { name: "top_k", label: "Top k", min: 0, max: 1000, step: 1, help: "Only that many of the likeliest tokens; 0 is all." },
  { name: "max_tokens", label: "Longest answer", min: 1, step: 1, help: "In tokens." },
  { name: "seed", label: "Seed", min: 0, step: 1, help: "The same seed gives the same answer." },
];

function numberField({ name, label, min, max, step, help }, placeholder) {
  const input = el("input", { type: "number", inputMode: "decimal", id: "set-" + name, value: settings[name], placeholder,
                              min, max, step, "aria-describedby": "help-" + name });
  input.addEventListener("input", () => {
    const value = input.value === "" ? "" : Number(input.value);
    const wrong = value !== "" && (value < min || value > (max ?? Infinity));
    input.setCustomValidity(wrong ? `between ${min} and ${max ?? "…"}` : "");
    if (wrong) return;
    settings[name] = value;
    saveSettings();
  });
  return el("div", { class: "field" }, el("label", { htmlFor: input.id }, label), input, el("p", { class: "hint", id: "help-" + name }, help));
}

// model: as /web/model.json has it, or null while it is not known.
export function startSettings(model) {
  if ($("settings").contains(document.activeElement)) return;  // not under the user's hands
  const system = el("textarea", { id: "set-system", rows: 4, value: settings.system, placeholder: "None" });
  system.addEventListener("input", () => { settings.system = system.value; saveSettings(); });
  const key = el("input", { type: "password", id: "set-key", value: settings.apiKey, autocomplete: "off", spellcheck: false, placeholder: "None" });
  const remember = el("input", { type: "checkbox", id: "set-remember", checked: settings.rememberKey });
  key.addEventListener("input", () => { settings.apiKey = key.value.trim(); saveSettings(); });
  remember.addEventListener("change", () => { settings.rememberKey = remember.checked; saveSettings(); });
  const defaults = model?.defaults ?? {};
  const reset = el("button", { type: "button", class: "button", onclick: () => {
    for (const { name } of kNumbers) settings[name] = "";
    settings.system = "";
    saveSettings();
    document.activeElement.blur();
    startSettings(model);
  } }, "Back to the model’s own");
  $("settings").replaceChildren(
    el("div", { class: "drawer-head" }, el("h2", {}, "Settings"),
       iconButton("close", "Close the settings", () => document.dispatchEvent(new Event("close-drawers")))),
    el("div", { class: "field" }, el("label", { htmlFor: "set-system" }, "System prompt"), system),
    el("div", { class: "grid" }, ...kNumbers.map((field) => numberField(field, defaults[field.name] !== undefined ? String(defaults[field.name]) : "default"))),
    reset,
    el("hr"),
    el("form", { class: "field", onsubmit: (event) => event.preventDefault() }, el("label", { htmlFor: "set-key" }, "API key"), key,
       el("label", { class: "check" }, remember, "Remember it in this browser"),
       el("p", { class: "hint" }, "Sent to this server only. Unless remembered it is forgotten when the page is closed.")));
}
