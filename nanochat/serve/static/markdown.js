// Markdown -> a tree of plain objects -> DOM nodes. Text from the model never becomes HTML: no markup
// is ever built from it, and the server's policy makes the browser refuse to parse any.
//
// Read: parseBlocks -> parseInline -> toDom.
// Blocks: headings, fenced code, lists, quotes, rules, paragraphs. Inline: code, bold, italic, struck
// out, links, bare addresses. Unlike CommonMark a * inside a word is a star, because 2*3*4 is a sum;
// a single line break is kept; a picture becomes a link, so nothing is loaded from elsewhere.
// Not covered: tables, footnotes, raw HTML (it shows as the text it is).
import { copyButton, h } from "./dom.js";

const MAX_DEPTH = 8; // quotes in lists in quotes ... deeper ones are shown as text

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}>[ \t]?/;
const ITEM = /^( {0,3})([-*]|\d{1,9}[.)])([ \t]+)(?=\S)/;

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

function takeParagraph(lines, at, blocks, depth) {
  const body = [lines[at]];
  for (at += 1; at < lines.length && lines[at].trim(); at += 1) {
    const line = lines[at];
    if (FENCE.test(line) || HEADING.test(line) || RULE.test(line)) break;
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
      : c === "[" || c === "!" ? link(text, at, depth)
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

const TAGS = { strong: "strong", em: "em", del: "del" };

/** The tree as nodes, ready to append. */
export function toDom(blocks) {
  return blocks.map((block) => {
    if (block.type === "code") return codeBlock(block);
    if (block.type === "rule") return h("hr");
    if (block.type === "quote") return h("blockquote", {}, ...toDom(block.blocks));
    if (block.type === "heading") {
      return h(`h${Math.min(6, block.level + 2)}`, {}, ...inlineToDom(block.inline));
    }
    if (block.type === "paragraph") return h("p", {}, ...inlineToDom(block.inline));
    const items = block.items.map((item) => h("li", {}, ...tight(item)));
    return block.ordered ? h("ol", { start: block.start }, ...items) : h("ul", {}, ...items);
  });
}

/** An item that begins with one paragraph shows it without the paragraph's margins. */
function tight(blocks) {
  const [first, ...rest] = blocks;
  if (first?.type !== "paragraph") return toDom(blocks);
  return [...inlineToDom(first.inline), ...toDom(rest)];
}

function inlineToDom(inline) {
  return inline.map((node) => {
    if (typeof node === "string") return document.createTextNode(node);
    if (node.type === "break") return h("br");
    if (node.type === "code") return h("code", {}, node.text);
    if (node.type !== "link") return h(TAGS[node.type], {}, ...inlineToDom(node.inline));
    const props = { href: node.href, target: "_blank", rel: "noopener noreferrer nofollow" };
    return h("a", props, ...inlineToDom(node.inline));
  });
}

function codeBlock({ language, text }) {
  const head = h("div.code-head", {}, h("span", {}, language || "code"), copyButton("Copy the code", () => text));
  return h("div.code", {}, head, h("pre", { tabIndex: 0 }, h("code", {}, text)));
}

export function renderMarkdown(text) {
  return toDom(parseBlocks(text));
}
