// Markdown as models write it → DOM nodes. The text becomes text nodes and nothing else: no HTML of it is ever parsed.

const FENCE = /^(\s{0,3})(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^(#{1,6})\s+(.+?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^\s{0,3}>\s?(.*)$/;
const RULE = /^\s{0,3}([-*_])(\s*\1){2,}\s*$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const apart = (before, make) => /\w$/.test(before) ? null : make();
// Lengths are bounded: a model that goes in circles must not make the page search for ever.
const INLINE = [
  [/^(`{1,9})([^`]|[^`][\s\S]{0,2000}?[^`])\1(?!`)/, (found) => element("code", [found[2].replace(/^ (.+) $/, "$1")])],
  [/^\*\*(?=[^\s*])([\s\S]{0,900}?\S)\*\*/, (found) => element("strong", inline(found[1]))],
  [/^\*(?=[^\s*])([\s\S]{0,900}?[^\s*])\*(?!\*)/, (found) => element("em", inline(found[1]))],
  [/^_(?=[^\s_])([\s\S]{0,900}?[^\s_])_(?![\w_])/, (found, before) => apart(before, () => element("em", inline(found[1])))],
  [/^~~(?=\S)([\s\S]{0,900}?\S)~~/, (found) => element("s", inline(found[1]))],
  [/^\[([^\]\n]+)\]\((https?:\/\/[^\s()]+)\)/, (found) => link(found[2], inline(found[1]))],
  [/^https?:\/\/[^\s<>()]+[^\s<>().,;:!?'"]/, (found, before) => apart(before, () => link(found[0], [found[0]]))],
  [/^\\([\\`*_{}[\]()#+.!|~>-])/, (found) => document.createTextNode(found[1])],
];

/** The blocks of `text`; `codeBlock(text, language)` makes the node for a block of code. */
export function render(text, codeBlock) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), codeBlock, 0);
}

function blocks(lines, codeBlock, depth) {
  const made = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const nested = depth < 8;
    if (!line.trim()) {
      at += 1;
    } else if (FENCE.test(line)) {
      at = fence(lines, at, made, codeBlock);
    } else if (RULE.test(line)) {
      made.push(element("hr", []));
      at += 1;
    } else if (HEADING.test(line)) {
      const [, marks, title] = HEADING.exec(line);
      made.push(element(`h${Math.min(4, marks.length + 1)}`, inline(title)));
      at += 1;
    } else if (nested && QUOTE.test(line)) {
      const end = run(lines, at, (each) => QUOTE.test(each));
      const inner = lines.slice(at, end).map((each) => QUOTE.exec(each)[1]);
      made.push(element("blockquote", blocks(inner, codeBlock, depth + 1)));
      at = end;
    } else if (nested && ITEM.test(line)) {
      at = list(lines, at, made, codeBlock, depth);
    } else if (line.includes("|") && DIVIDER.test(lines[at + 1] ?? "") && lines[at + 1].includes("|")) {
      at = table(lines, at, made);
    } else {
      const end = at + 1 + run(lines.slice(at + 1), 0, (each) => each.trim() && !starts(each));
      made.push(element("p", inline(lines.slice(at, end).map((each) => each.trim()).join("\n"))));
      at = end;
    }
  }
  return made;
}

const starts = (line) => [FENCE, HEADING, ITEM, QUOTE, RULE].some((mark) => mark.test(line));

function run(lines, from, holds) {
  let end = from;
  while (end < lines.length && holds(lines[end])) end += 1;
  return end;
}

function fence(lines, at, made, codeBlock) {
  const [, indent, mark, language] = FENCE.exec(lines[at]);
  // A fence that is not closed yet reaches to the end: the answer is still being written.
  const closes = (line) => line.trim().startsWith(mark) && !line.trim().replaceAll(mark[0], "");
  const end = run(lines, at + 1, (line) => !closes(line));
  const code = lines.slice(at + 1, end).map((line) => line.startsWith(indent) ? line.slice(indent.length) : line);
  made.push(codeBlock(code.join("\n"), language));
  return end + 1;
}

function list(lines, at, made, codeBlock, depth) {
  const [, margin, mark] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(mark);
  const top = element(ordered ? "ol" : "ul", []);
  if (ordered && parseInt(mark, 10) !== 1) top.start = parseInt(mark, 10);
  while (at < lines.length) {
    const found = ITEM.exec(lines[at]);
    if (!found || found[1].length > margin.length + 1 || /\d/.test(found[2]) !== ordered) break;
    const indent = found[0].length - found[3].length;
    let end = at + 1;
    while (end < lines.length && (belongs(lines[end], margin.length) || blankInside(lines, end, margin.length))) end += 1;
    const rest = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, line.search(/\S|$/))));
    const inner = blocks([found[3], ...rest], codeBlock, depth + 1);
    // A tight item has no paragraph of its own.
    const first = inner[0]?.tagName === "P" ? [...inner.shift().childNodes] : [];
    top.append(element("li", [...first, ...inner]));
    at = end;
    if (at < lines.length && !lines[at].trim() && ITEM.exec(lines[at + 1] ?? "")?.[1].length === margin.length) at += 1;
  }
  made.push(top);
  return at;
}

const belongs = (line, margin) => line.trim() && line.search(/\S/) > margin + 1;
const blankInside = (lines, at, margin) => !lines[at].trim() && belongs(lines[at + 1] ?? "", margin);

function table(lines, at, made) {
  const end = run(lines, at + 2, (line) => line.includes("|"));
  const row = (line, cell) => element("tr", cells(line).map((text) => element(cell, inline(text))));
  const head = element("thead", [row(lines[at], "th")]);
  const body = element("tbody", lines.slice(at + 2, end).map((line) => row(line, "td")));
  const wide = element("div", [element("table", [head, body])]);
  wide.className = "wide-table";
  made.push(wide);
  return end;
}

const cells = (line) => line.trim().replace(/^\|/, "").replace(/\|$/, "").split(/(?<!\\)\|/).map((text) => text.trim());

/** The nodes of a stretch of text within a block. */
function inline(text) {
  const nodes = [];
  let plain = "";
  let at = 0;
  while (at < text.length) {
    const next = match(text.slice(at), plain);
    if (next) {
      if (plain) nodes.push(plain);
      plain = "";
      nodes.push(next.node);
      at += next.length;
    } else if (text[at] === "\n") {
      nodes.push(plain, element("br", []));
      plain = "";
      at += 1;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  if (plain) nodes.push(plain);
  return nodes;
}

function match(rest, before) {
  if (!"`*_~[h\\".includes(rest[0])) return null;
  for (const [pattern, make] of INLINE) {
    const found = pattern.exec(rest);
    const node = found && make(found, before);
    if (node) return { node, length: found[0].length };
  }
  return null;
}

function link(address, children) {
  const made = element("a", children);
  made.href = address;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  return made;
}

function element(name, children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}
