// A block of code with its language, a copy button, and just enough colour to read it by: strings,
// comments, numbers and the words that most languages have in common.
import { copyText, el, icon } from "./dom.js";

const kWords = new Set(("abstract and as assert async await auto bool boolean break case catch char class const constexpr continue def " +
  "default del delete do double elif else enum except export extends false False final finally float fn for from func function global " +
  "if impl import in include int interface is lambda let long match mod mut namespace new nil None nonlocal not null nullptr or pass " +
  "private protected public pub raise return self short signed sizeof static str string struct super switch template this throw true " +
  "True try type typedef typename typeof union unsigned use using var virtual void volatile while with yield SELECT FROM WHERE").split(" "));
const kHash = new Set(["python", "py", "sh", "bash", "shell", "zsh", "ruby", "rb", "yaml", "yml", "toml", "perl", "r", "make", "makefile", "cmake", "dockerfile"]);
const kPlain = new Set(["", "text", "txt", "plain", "output", "console", "markdown", "md", "csv", "log"]);
const kLongest = 20000;  // beyond that it stays uncoloured

function colour(code, text, language) {
  if (kPlain.has(language) || text.length > kLongest) return code.append(text);
  const comment = kHash.has(language) ? "#[^\\n]*" : language === "sql" ? "--[^\\n]*" : "\\/\\/[^\\n]*|\\/\\*[^*]*(?:\\*(?!\\/)[^*]*)*(?:\\*\\/|$)";
  const token = new RegExp(`(${comment})|("(?:[^"\\\\\\n]|\\\\.)*"|'(?:[^'\\\\\\n]|\\\\.)*'|\`[^\`]*\`)|\\b(\\d[\\w.]*)|([A-Za-z_]\\w*)`, "g");
  let from = 0;
  for (const match of text.matchAll(token)) {
    const kind = match[1] ? "comment" : match[2] ? "string" : match[3] ? "number" : kWords.has(match[4]) ? "word" : null;
    if (!kind) continue;
    code.append(text.slice(from, match.index), el("span", { class: "code-" + kind }, match[0]));
    from = match.index + match[0].length;
  }
  code.append(text.slice(from));
}

export function codeBlock(text, language) {
  const label = el("span", {}, "Copy");
  const copy = el("button", { type: "button", class: "copy", "aria-label": "Copy the code", onclick: async () => {
    await copyText(text);
    label.textContent = "Copied";
    setTimeout(() => { label.textContent = "Copy"; }, 1500);
  } }, icon("copy"), label);
  const code = el("code");
  colour(code, text, language.toLowerCase());
  return el("figure", { class: "code" }, el("figcaption", {}, el("span", {}, language || "text"), copy), el("pre", { tabIndex: 0 }, code));
}
