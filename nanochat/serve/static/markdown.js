// Markdown -> a tree of plain objects -> DOM nodes. Text from the model never becomes HTML: no markup
// is ever built from it, and the server's policy makes the browser refuse to parse any.
//
// Read: parseBlocks -> parseInline -> toDom.
// Blocks: headings, fenced code, tables, lists, quotes, rules, paragraphs. Inline: code, bold, italic,
// struck out, links, bare addresses, citations such as [1]. Unlike CommonMark a * inside a word is a
// star, because 2*3*4 is a sum; a single line break is kept; a picture becomes a link, so nothing is
// loaded from elsewhere.
// Not covered: footnotes, raw HTML (it shows as the text it is).
import { copyButton, h } from "./dom.js";

const MAX_DEPTH = 8; // quotes in lists in quotes ... deeper ones are shown as text
const MAX_COLUMNS = 50; // a short row gets all the cells of the first: rows x columns, from few letters

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}>[ \t]?/;
const ITEM = /^( {0,3})([-*]|\d{1,9}[.)])([ \t]+)(?=\S)/;
const DIVIDER = /^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?$/;

export function parseBlocks(text, depth = 0) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    const heading = HEADING.exec(line);
    if (!line.trim()) at += 1;
    else if (fence) at = takeCode(lines, at, fence, blocks);
    else if (heading) {
      blocks.push({ type: "heading", level: heading[1].length, inline: parseInline(heading[2]) });
      at += 1;
    } else if (RULE.test(line)) {
      blocks.push({ type: "rule" });
      at += 1;
    } else if (QUOTE.test(line) && depth < MAX_DEPTH) at = takeQuote(lines, at, blocks, depth);
    else if (ITEM.test(line) && depth < MAX_DEPTH) at = takeList(lines, at, blocks, depth);
    else if (startsTable(lines, at)) at = takeTable(lines, at, blocks);
    else at = takeParagraph(lines, at, blocks, depth);
  }
  return blocks;
}

/** An open fence runs to the end: while an answer streams, that is what it will be. */
function takeCode(lines, at, [, mark, language], blocks) {
  const body = [];
  for (at += 1; at < lines.length; at += 1) {
    const bare = lines[at].trim();
    if (bare.startsWith(mark) && bare === mark[0].repeat(bare.length)) break;
    body.push(lines[at]);
  }
  blocks.push({ type: "code", language, text: body.join("\n") });
  return at + 1;
}

function takeQuote(lines, at, blocks, depth) {
  const body = [];
  for (; at < lines.length && QUOTE.test(lines[at]); at += 1) body.push(lines[at].replace(QUOTE, ""));
  blocks.push({ type: "quote", blocks: parseBlocks(body.join("\n"), depth + 1) });
  return at;
}

function takeList(lines, at, blocks, depth) {
  const ordered = /\d/.test(ITEM.exec(lines[at])[2]);
  const list = { type: "list", ordered, start: parseInt(ITEM.exec(lines[at])[2], 10) || 0, items: [] };
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || RULE.test(lines[at]) || /\d/.test(item[2]) !== ordered) break;
    const indent = item[0].length;
    const body = [lines[at].slice(indent)];
    for (at += 1; at < lines.length; at += 1) {
      const inside = lines[at].search(/\S/) >= Math.min(indent, 2);
      const blank = !lines[at].trim() && /^ {2}/.test(lines[at + 1] ?? "");
      if (!inside && !blank) break;
      body.push(lines[at].slice(Math.min(indent, Math.max(0, lines[at].search(/\S/)))));
    }
    list.items.push(parseBlocks(body.join("\n"), depth + 1));
    while (at + 1 < lines.length && !lines[at].trim() && ITEM.test(lines[at + 1])) at += 1;
  }
  blocks.push(list);
  return at;
}

/** A line of cells above a line such as |---|:-:| with as many. */
function startsTable(lines, at) {
  if (!lines[at].includes("|") || !DIVIDER.test((lines[at + 1] ?? "").trim())) return false;
  const columns = cellsOf(lines[at]).length;
  return columns <= MAX_COLUMNS && columns === cellsOf(lines[at + 1]).length;
}

function takeTable(lines, at, blocks) {
  const head = cellsOf(lines[at]);
  const sides = cellsOf(lines[at + 1]).map((mark) =>
    mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : "left",
  );
  const rows = [];
  for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) {
    const cells = cellsOf(lines[at]);
    rows.push(head.map((_, n) => parseInline(cells[n] ?? "")));
  }
  blocks.push({ type: "table", sides, head: head.map((cell) => parseInline(cell)), rows });
  return at;
}

/** "| a | b \\| c |" -> ["a", "b | c"] */
function cellsOf(line) {
  const inside = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inside.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function takeParagraph(lines, at, blocks, depth) {
  const body = [lines[at]];
  for (at += 1; at < lines.length && lines[at].trim(); at += 1) {
    const line = lines[at];
    if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || startsTable(lines, at)) break;
    if (depth < MAX_DEPTH && (QUOTE.test(line) || ITEM.test(line))) break;
    body.push(line);
  }
  blocks.push({ type: "paragraph", inline: parseInline(body.map((l) => l.trim()).join("\n")) });
  return at;
}

const EMPHASIS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];
const LINK = /!?\[([^[\]\n]{1,500})\]\(<?([^()<>\s]{1,2000})>?(?:[ \t]+"[^"\n]{0,500}")?\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`]{1,2000}/y;
const CITATION = /\[(\d{1,3}(?:[ \t]*,[ \t]*\d{1,3}){0,20})\]/y;
const WORD = /[\p{L}\p{N}]/u;

/** Inline text -> [string | {type, ...}, ...]. */
export function parseInline(text, depth = 0) {
  const found = [];
  const hopeless = new Set(); // marks that close nowhere further on: not searched for again
  let plain = "";
  let at = 0;
  const put = (node, length) => {
    if (plain) found.push(plain);
    plain = "";
    found.push(node);
    at += length;
  };
  while (at < text.length) {
    const c = text[at];
    const taken =
      c === "\n" ? [{ type: "break" }, 1]
      : c === "\\" ? escaped(text, at)
      : c === "`" ? code(text, at, hopeless)
      : c === "[" || c === "!" ? link(text, at, depth) ?? cited(text, at)
      : c === "h" ? address(text, at)
      : "*_~".includes(c) && depth < MAX_DEPTH ? emphasis(text, at, depth, hopeless)
      : null;
    if (!taken) {
      plain += c;
      at += 1;
    } else if (typeof taken[0] === "string") {
      plain += taken[0];
      at += taken[1];
    } else put(...taken);
  }
  if (plain) found.push(plain);
  return found;
}

function escaped(text, at) {
  const next = text[at + 1] ?? "";
  return /[!-/:-@[-`{-~]/.test(next) ? [next, 2] : null;
}

function code(text, at, hopeless) {
  const mark = /`+/y;
  mark.lastIndex = at;
  const ticks = mark.exec(text)[0];
  if (hopeless.has(ticks)) return [ticks, ticks.length];
  let end = at + ticks.length;
  while ((end = text.indexOf(ticks, end)) >= 0) {
    if (text[end + ticks.length] !== "`") {
      const inside = text.slice(at + ticks.length, end).replace(/\n/g, " ");
      const bare = /^ .*[^ ].* $/.test(inside) ? inside.slice(1, -1) : inside;
      return [{ type: "code", text: bare }, end + ticks.length - at];
    }
    while (text[end] === "`") end += 1;
  }
  hopeless.add(ticks);
  return [ticks, ticks.length];
}

function link(text, at, depth) {
  LINK.lastIndex = at;
  const match = LINK.exec(text);
  const href = match && safeAddress(match[2]);
  if (!href) return null;
  const inline = depth < MAX_DEPTH ? parseInline(match[1], MAX_DEPTH) : [match[1]];
  return [{ type: "link", href, inline }, match[0].length];
}

/** [1] or [1, 2]: links to sources, where the answer has such sources. */
function cited(text, at) {
  CITATION.lastIndex = at;
  const match = CITATION.exec(text);
  return match && [{ type: "cite", text: match[0], ids: match[1].split(",").map(Number) }, match[0].length];
}

function address(text, at) {
  if (at > 0 && WORD.test(text[at - 1])) return null;
  ADDRESS.lastIndex = at;
  const match = ADDRESS.exec(text);
  if (!match) return null;
  let shown = match[0].replace(/[.,;:!?*_~]+$/, "");
  if (shown.endsWith(")") && !shown.includes("(")) shown = shown.slice(0, -1);
  const href = safeAddress(shown);
  return href ? [{ type: "link", href, inline: [shown] }, shown.length] : null;
}

/** The address if it is http or https, else null: javascript: and data: stay text. */
export function safeAddress(text) {
  try {
    const url = new URL(text);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch {
    return null;
  }
}

function emphasis(text, at, depth, hopeless) {
  const run = /([*_~])\1*/y;
  run.lastIndex = at;
  const shown = run.exec(text)[0];
  if (shown.length > 3) return [shown, shown.length]; // a row of stars is a row of stars
  for (const [mark, type] of EMPHASIS) {
    if (!text.startsWith(mark, at)) continue;
    const start = at + mark.length;
    const opens = !/\s/.test(text[start] ?? " ") && !WORD.test(text[at - 1] ?? " ");
    if (!opens || hopeless.has(mark)) continue;
    const end = closing(text, start, mark);
    if (end < 0) hopeless.add(mark);
    else {
      const inline = parseInline(text.slice(start, end), depth + 1);
      return [{ type, inline }, end + mark.length - at];
    }
  }
  return [shown, shown.length]; // a mark that opens nothing is text, and so are its neighbours
}

/** Where `mark` closes: after a visible character and before something that is no word. */
function closing(text, start, mark) {
  for (let end = text.indexOf(mark, start + 1); end >= 0; end = text.indexOf(mark, end + 1)) {
    while (mark.length === 2 && text[end + 2] === mark[0]) end += 1; // ***both*** closes the outer last
    const after = text[end + mark.length] ?? " ";
    const single = mark.length === 1 && (after === mark || text[end - 1] === mark);
    if (!/\s/.test(text[end - 1]) && !WORD.test(after) && !single) return end;
  }
  return -1;
}

const HEADINGS_BEGIN = 3; // the name of who speaks is a heading of level 2
const TAGS = { strong: "strong", em: "em", del: "del" };

/** The tree as nodes, ready to append. `cite(id)` gives the link of a citation, or null. */
export function toDom(blocks, cite) {
  let above = HEADINGS_BEGIN - 1;
  return blocks.map((block) => {
    if (block.type === "code") return codeBlock(block);
    if (block.type === "table") return table(block, cite);
    if (block.type === "rule") return h("hr");
    if (block.type === "quote") return h("blockquote", {}, ...toDom(block.blocks, cite));
    if (block.type === "heading") {
      above = Math.min(above + 1, 6, block.level + HEADINGS_BEGIN - 1); // no level is left out
      return h(`h${above}`, {}, ...inlineToDom(block.inline, cite));
    }
    if (block.type === "paragraph") return h("p", {}, ...inlineToDom(block.inline, cite));
    const items = block.items.map((item) => h("li", {}, ...tight(item, cite)));
    return block.ordered ? h("ol", { start: block.start }, ...items) : h("ul", {}, ...items);
  });
}

/** An item that begins with one paragraph shows it without the paragraph's margins. */
function tight(blocks, cite) {
  const [first, ...rest] = blocks;
  if (first?.type !== "paragraph") return toDom(blocks, cite);
  return [...inlineToDom(first.inline, cite), ...toDom(rest, cite)];
}

function inlineToDom(inline, cite) {
  return inline.flatMap((node) => {
    if (typeof node === "string") return document.createTextNode(node);
    if (node.type === "break") return h("br");
    if (node.type === "code") return h("code", {}, node.text);
    if (node.type === "cite") return citations(node, cite);
    if (node.type !== "link") return h(TAGS[node.type], {}, ...inlineToDom(node.inline, cite));
    const props = { href: node.href, target: "_blank", rel: "noopener noreferrer nofollow" };
    return h("a", props, ...inlineToDom(node.inline));
  });
}

/** A link for each number that is a source; a number that is none stays the text it is. */
function citations({ text, ids }, cite) {
  const links = ids.map((id) => cite?.(id) ?? null);
  if (!links.some(Boolean)) return document.createTextNode(text);
  return links.map((link, n) => link ?? document.createTextNode(`[${ids[n]}]`));
}

function table({ sides, head, rows }, cite) {
  const cell = (tag, inline, n, props) =>
    h(`${tag}.${sides[n]}`, props, ...inlineToDom(inline, cite));
  const top = h("tr", {}, ...head.map((inline, n) => cell("th", inline, n, { scope: "col" })));
  const body = rows.map((row) => h("tr", {}, ...row.map((inline, n) => cell("td", inline, n))));
  const whole = h("table", {}, h("thead", {}, top), h("tbody", {}, ...body));
  return h("div.table", { tabIndex: 0, role: "group", "aria-label": "Table" }, whole);
}

function codeBlock({ language, text }) {
  const head = h("div.code-head", {}, h("span", {}, language || "code"), copyButton("Copy the code", () => text));
  return h("div.code", {}, head, h("pre", { tabIndex: 0 }, h("code", {}, text)));
}

export function renderMarkdown(text, cite) {
  return toDom(parseBlocks(text), cite);
}
