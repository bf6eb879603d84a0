// Sources: the passages that an answer was written from, listed below it, and the [1] in its text that
// lead there. Titles, addresses and passages come from documents that anybody may have written: what is
// kept is checked piece by piece, shown as text, and only an http or https address becomes a link.
// Read: readSources -> sourceList -> citation -> reveal.
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { safeAddress } from "./markdown.js";

const MOST_SOURCES = 50;
const LARGEST_ID = 999; // a citation has at most three digits
const TITLE_LENGTH = 200;
const PASSAGE_LENGTH = 4000; // the browser keeps every chat in 5 MB

/** What a server or the store gave -> [{id, title, url, text}, ...], added to those `known` so far. */
export function readSources(given, known = []) {
  const kept = new Map(known.map((source) => [source.id, source]));
  for (const one of Array.isArray(given) ? given : []) {
    const source = readSource(one);
    if (source && (kept.has(source.id) || kept.size < MOST_SOURCES)) kept.set(source.id, source);
  }
  return [...kept.values()].sort((a, b) => a.id - b.id);
}

function readSource(one) {
  const id = one?.id;
  if (!Number.isInteger(id) || id < 1 || id > LARGEST_ID) return null;
  const url = typeof one.url === "string" ? safeAddress(one.url) : null;
  const text = clipped(one.text, PASSAGE_LENGTH);
  const title = clipped(one.title, TITLE_LENGTH).replace(/\s+/g, " ") || (url && new URL(url).host);
  return title || text ? { id, title: title || `Source ${id}`, url, text } : null;
}

function clipped(text, length) {
  const whole = typeof text === "string" ? text.trim() : "";
  return whole.length > length ? `${whole.slice(0, length)}…` : whole;
}

const nameOf = (message, id) => `source-${message.id}-${id}`;

/** "2 sources", closed; inside, each with its number and title, and the passage when it is opened. */
export function sourceList(message, sources) {
  const items = sources.map((source) => {
    const item = h("li", { id: nameOf(message, source.id), tabIndex: -1, value: source.id });
    item.append(source.text || source.url ? foldOf(source) : titleOf(source));
    return item;
  });
  const count = sources.length === 1 ? "1 source" : `${sources.length} sources`;
  const head = h("summary", {}, icon("book", 16), h("span", {}, count));
  return h("details.sources", {}, head, h("ol", { role: "list" }, ...items));
}

function titleOf({ id, title }) {
  return h("span.source-title", {}, h("span.source-number", {}, `${id}`), h("bdi", {}, title));
}

function foldOf(source) {
  const fold = h("details", {}, h("summary", {}, titleOf(source)));
  if (source.text) {
    const passage = h("blockquote.passage", { dir: "auto", tabIndex: 0 }, source.text);
    passage.setAttribute("aria-label", `Passage of source ${source.id}`);
    fold.append(passage); // a long one scrolls, with the keyboard too
  }
  if (source.url) {
    const props = { href: source.url, target: "_blank", rel: "noopener noreferrer nofollow" };
    // The host as the browser writes it: a name made to look like another shows as xn--...
    fold.append(h("a.source-link", props, `Open on ${new URL(source.url).host}`));
  }
  return fold;
}

/** The [1] in an answer as a link to its source; null where there is no such source. */
export function citation(message, sources, id) {
  const source = sources.find((one) => one.id === id);
  if (!source) return null;
  const name = nameOf(message, id);
  const link = h("a.cite", { href: `#${name}`, title: source.title }, `[${id}]`);
  link.setAttribute("aria-label", `Source ${id}: ${source.title}`);
  link.addEventListener("click", (event) => {
    event.preventDefault(); // the address names the open chat
    reveal(document.getElementById(name));
  });
  return link;
}

/** Open the list and the passage, and put the focus there. */
function reveal(item) {
  item.closest(".sources").open = true;
  const fold = item.querySelector("details");
  if (fold) fold.open = true;
  item.scrollIntoView({ block: "nearest" });
  item.focus({ preventScroll: true });
}
