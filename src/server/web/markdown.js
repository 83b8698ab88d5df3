// Markdown to nodes. The text comes from a model, so from anybody: it only ever becomes text nodes
// and elements named here, links go to http, https and mailto alone, and pictures are not loaded.
// Scanners without backtracking: the time is about linear in the text, whatever it holds.
import { el } from "./dom.js";
import { codeBlock } from "./code_block.js";

const kMaxDepth = 12;          // of quotes and lists inside each other, and of emphasis
const kLongestLine = 1000;     // one that marks something; longer ones are text
const kLongestSpan = 20_000;   // a longer paragraph is shown as it stands

// Shows text in container. Blocks that are as they were stay, so that a growing answer does not
// flicker and a selection survives.
export function renderMarkdown(container, text) {
  const blocks = splitBlocks(text.replace(/\r\n?/g, "\n").split("\n"));
  blocks.forEach((block, i) => {
    const old = container.childNodes[i];
    const source = block.type + "\n" + (block.fence ?? "") + block.lines.join("\n");
    if (old?.source === source) return;
    const node = renderBlock(block, 0);
    node.source = source;
    if (old) old.replaceWith(node); else container.append(node);
  });
  while (container.childNodes.length > blocks.length) container.lastChild.remove();
}

const kFence = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const kHeading = /^ {0,3}(#{1,6})(?:\s+(.*))?$/;
const kRule = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const kItem = /^( {0,3})([-*+]|\d{1,9}[.)])( {1,4}|$)(.*)$/;
const kQuote = /^ {0,3}> ?/;
const kTableRule = /^ {0,3}\|?(?: *:?-+:? *\|)+(?: *:?-+:? *)?$|^ {0,3}\| *:?-+:? *$/;

// [{type, lines, fence}]; the lines of an item or a quote are without their marks.
function splitBlocks(lines) {
  const blocks = [];
  let i = 0;
  const isHeading = (line) => line.length < kLongestLine && kHeading.test(line);
  const fenceOf = (line) => (line.length < kLongestLine ? kFence.exec(line) : null);
  const startsBlock = (line) => fenceOf(line) || isHeading(line) || kQuote.test(line) || isRule(line);
  while (i < lines.length) {
    const line = lines[i];
    const fence = fenceOf(line);
    if (line.trim() === "") {
      ++i;
    } else if (fence) {
      const body = [], indent = line.search(/\S/);
      const end = new RegExp("^ {0,3}" + fence[1][0] + "{" + fence[1].length + ",}\\s*$");
      for (++i; i < lines.length && !end.test(lines[i]); ++i) body.push(lines[i].replace(/^ */, (s) => s.slice(indent)));
      ++i;
      blocks.push({ type: "code", fence: fence[2], lines: body });
    } else if (isHeading(line)) {
      blocks.push({ type: "heading", lines: [line] });
      ++i;
    } else if (isRule(line)) {
      blocks.push({ type: "rule", lines: [] });
      ++i;
    } else if (kQuote.test(line)) {
      const body = [];
      for (; i < lines.length && (kQuote.test(lines[i]) || (lines[i].trim() && !startsBlock(lines[i]) && !kItem.test(lines[i]))); ++i)
        body.push(lines[i].replace(kQuote, ""));
      blocks.push({ type: "quote", lines: body });
    } else if (kItem.test(line)) {
      const first = kItem.exec(line), ordered = /\d/.test(first[2]), body = [];
      // The list goes on as long as there are items of its kind or lines indented under them.
      for (; i < lines.length; ++i) {
        const item = kItem.exec(lines[i]);
        const sibling = item && item[1].length < widthOf(first);
        if (sibling ? /\d/.test(item[2]) !== ordered || isRule(lines[i]) : !/^\s{2,}\S/.test(lines[i]) && !continues(lines, i, startsBlock)) break;
        body.push(lines[i]);
      }
      blocks.push({ type: ordered ? "ordered" : "list", lines: body });
    } else if (line.includes("|") && i + 1 < lines.length && lines[i + 1].length < kLongestLine && kTableRule.test(lines[i + 1])) {
      const body = [];
      for (; i < lines.length && lines[i].includes("|"); ++i) body.push(lines[i]);
      blocks.push({ type: "table", lines: body });
    } else {
      const body = [];
      for (; i < lines.length && lines[i].trim() && (body.length === 0 || (!startsBlock(lines[i]) && !/^ {0,3}([-*+]|1[.)]) /.test(lines[i]))); ++i)
        body.push(lines[i]);
      blocks.push({ type: "paragraph", lines: body });
    }
  }
  return blocks;
}

// Columns that an item's mark takes: what is indented as far is inside the item.
const widthOf = (item) => item[1].length + item[2].length + Math.max(1, item[3].length);

const isRule = (line) => line.length < kLongestLine && kRule.test(line);

// Inside a list: a line of text right behind another, or an empty one before more of the list.
function continues(lines, i, startsBlock) {
  if (lines[i].trim()) return lines[i - 1].trim() !== "" && !startsBlock(lines[i]);
  const next = lines.slice(i + 1, i + 3).find((line) => line.trim());
  return next !== undefined && (kItem.test(next) || /^\s{2,}\S/.test(next));
}

function renderBlock(block, depth) {
  switch (block.type) {
    case "code": return codeBlock(block.lines.join("\n"), block.fence);
    case "rule": return el("hr");
    case "heading": {
      const [, marks, text = ""] = kHeading.exec(block.lines[0]);
      // The page has h1 and h2 of its own.
      return el("h" + Math.min(6, marks.length + 2), {}, ...inline(text.replace(/\s+#+\s*$/, ""), depth));
    }
    case "quote": return el("blockquote", {}, ...nested(block.lines, depth));
    case "list": case "ordered": return renderList(block, depth);
    case "table": return renderTable(block.lines, depth);
    default: return el("p", {}, ...inline(block.lines.map((line) => line.replace(/^ +/, "")).join("\n"), depth));
  }
}

function nested(lines, depth) {
  if (depth >= kMaxDepth) return [lines.join("\n")];
  return splitBlocks(lines).map((block) => renderBlock(block, depth + 1));
}

function renderList(block, depth) {
  const items = [];
  let width = 0;
  for (const line of block.lines) {
    const item = kItem.exec(line);
    if (item && (items.length === 0 || item[1].length < Math.max(width, 1))) {
      width = widthOf(item);
      items.push([item[4]]);
    } else {
      items.at(-1).push(line.replace(/^ */, (spaces) => spaces.slice(width)));
    }
  }
  const loose = block.lines.some((line, i) => !line.trim() && i + 1 < block.lines.length);
  const start = parseInt(block.lines[0].trim(), 10);
  return el(block.type === "ordered" ? "ol" : "ul", block.type === "ordered" && start !== 1 ? { start } : {},
            ...items.map((lines) => {
              const children = nested(lines, depth);
              // A tight list has no paragraphs.
              if (!loose && children[0]?.tagName === "P") children.splice(0, 1, ...children[0].childNodes);
              return el("li", {}, ...children);
            }));
}

function renderTable(lines, depth) {
  const cells = (line) => line.trim().replace(/^\|/, "").replace(/\|$/, "").split(/(?<!\\)\|/).map((c) => c.trim().replace(/\\\|/g, "|"));
  const head = cells(lines[0]);
  const align = cells(lines[1]).map((rule) => (rule.endsWith(":") ? (rule.startsWith(":") ? "center" : "right") : ""));
  const row = (tag, values) => el("tr", {}, ...head.map((_, i) => el(tag, { class: align[i] || null }, ...inline(values[i] ?? "", depth))));
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, row("th", head)),
                                           el("tbody", {}, ...lines.slice(2).map((line) => row("td", cells(line))))));
}

// Only addresses that open a page or a letter.
export function safeUrl(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch { return null; }
}

function link(url, children) {
  const href = safeUrl(url);
  return href ? [el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children)] : children;
}

const kEscaped = /[\\`*_{}[\]()#+\-.!|<>~"'$&,/:;=?@^%]/;
const kEmphasis = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

// Spans of text: code, emphasis, links, line breaks.
function inline(text, depth) {
  if (text.length > kLongestSpan) return [text];
  const nodes = [];
  let plain = "";
  const flush = () => { if (plain) nodes.push(document.createTextNode(plain)); plain = ""; };
  const missing = new Set();  // closing marks that the rest of the text does not hold
  const find = (mark, from) => {
    if (missing.has(mark)) return -1;
    const at = text.indexOf(mark, from);
    if (at < 0) missing.add(mark);
    return at;
  };
  for (let i = 0; i < text.length;) {
    const c = text[i];
    if (c === "\\" && text[i + 1] === "\n") {
      flush();
      nodes.push(el("br"));
      i += 2;
    } else if (c === "\\" && kEscaped.test(text[i + 1] ?? "")) {
      plain += text[i + 1];
      i += 2;
    } else if (c === "\n") {
      if (plain.endsWith("  ")) { plain = plain.trimEnd(); flush(); nodes.push(el("br")); } else plain += "\n";
      ++i;
    } else if (c === "`") {
      let run = 1;
      while (text[i + run] === "`") ++run;
      const end = find("`".repeat(run), i + run);
      if (end < 0) { plain += "`".repeat(run); i += run; continue; }
      flush();
      nodes.push(el("code", {}, text.slice(i + run, end).replace(/\n/g, " ").replace(/^ (.+) $/, "$1")));
      i = end + run;
    } else if (c === "<") {
      const end = text.slice(i, i + 500).indexOf(">");
      const url = end > 0 ? text.slice(i + 1, i + end) : "";
      if (/^(https?:\/\/|mailto:)[^\s<]+$/.test(url) && safeUrl(url)) { flush(); nodes.push(...link(url, [url])); i += end + 1; } else { plain += c; ++i; }
    } else if (c === "h" && /^https?:\/\/[^\s<>"`|*]/.test(text.slice(i, i + 12)) && !/\w/.test(text[i - 1] ?? "")) {
      const url = /^[^\s<>"`|*]+/.exec(text.slice(i, i + 2000))[0].replace(/[.,;:!?'\])]+$/, "");
      flush();
      nodes.push(...link(url, [url]));
      i += url.length;
    } else if (c === "[" || (c === "!" && text[i + 1] === "[")) {
      const found = depth < kMaxDepth ? linkAt(text, i + (c === "!" ? 1 : 0)) : null;
      if (!found) { plain += c; ++i; continue; }
      flush();
      nodes.push(...link(found.url, inline(found.label || found.url, kMaxDepth)));
      i = found.end;
    } else {
      const span = "*_~".includes(c) && depth < kMaxDepth ? emphasisAt(text, i, find) : null;
      if (!span) { plain += c; ++i; continue; }
      flush();
      nodes.push(el(span.tag, {}, ...inline(text.slice(span.from, span.to), depth + 1)));
      i = span.end;
    }
  }
  flush();
  return nodes;
}

// [label](url "title") at position i.
function linkAt(text, i) {
  const close = text.slice(i, i + 1000).indexOf("](");
  if (close < 0) return null;
  const from = i + close + 2, rest = text.slice(from, from + 2000);
  let depth = 1, j = 0;
  for (; j < rest.length && depth > 0; ++j) {
    if (rest[j] === "\n") return null;
    if (rest[j] === "(") ++depth;
    if (rest[j] === ")") --depth;
  }
  if (depth > 0) return null;
  const url = rest.slice(0, j - 1).trim().replace(/\s+["'].*$/, "").replace(/^<(.*)>$/, "$1");
  return { label: text.slice(i + 1, i + close), url, end: from + j };
}

function emphasisAt(text, i, find) {
  for (const [mark, tag] of kEmphasis) {
    if (!text.startsWith(mark, i)) continue;
    const from = i + mark.length;
    if (/\s/.test(text[from] ?? " ")) continue;
    if (mark[0] === "_" && /\w/.test(text[i - 1] ?? "")) continue;  // snake_case
    let end = find(mark, from + 1);
    // A single mark does not end at a double one.
    while (mark.length === 1 && end >= 0 && text[end + 1] === mark) end = text.indexOf(mark, end + 2);
    if (end < 0 || /\s/.test(text[end - 1])) continue;
    if (mark[0] === "_" && /\w/.test(text[end + mark.length] ?? "")) continue;
    return { tag, from, to: end, end: end + mark.length };
  }
  return null;
}
