/* Making and finding elements, and writing numbers. Read: $ -> el -> svg -> renew -> fmt
   -> perFrame. */
"use strict";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** el("p.note", {title: "…", onclick: f}, "text", child): an HTML element. */
function el(spec, attributes = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  return dress(document.createElement(tag || "div"), classes, attributes, children);
}

/** The same for SVG. */
function svg(spec, attributes = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return dress(node, classes, attributes, children);
}

function dress(node, classes, attributes, children) {
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node[name] = value;
    else if (name === "style") for (const p in value) node.style.setProperty(p, value[p]);
    else if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.flat(9).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

/** host.replaceChildren(…), except that what was there and looks the same stays: the browser lays
    out and paints the differences only. For pictures of numbers; whoever keeps a reference to a
    node of its own must not hand it in, because its older twin is what stays. */
function renew(host, ...children) {
  const fresh = children.flat(9).filter((c) => c !== null && c !== undefined && c !== false);
  const old = [...host.childNodes];
  fresh.forEach((child, i) => {
    const node = child instanceof Node ? child : document.createTextNode(child);
    if (!old[i]) host.append(node);
    else if (old[i].nodeName !== node.nodeName) old[i].replaceWith(node);
    else if (node.nodeType === Node.TEXT_NODE) {
      if (old[i].data !== node.data) old[i].data = node.data;
    } else become(old[i], node);
  });
  for (const rest of old.slice(fresh.length)) rest.remove();
}

function become(old, fresh) {
  for (const name of fresh.getAttributeNames()) {
    const value = fresh.getAttribute(name);
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const name of old.getAttributeNames()) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  old.onclick = fresh.onclick;
  renew(old, ...fresh.childNodes);
}

const MINUS = "−";

/** A number for people: "−0.123". What is not a number is said in words, never "NaN". */
function fmt(x, digits = 3) {
  if (!Number.isFinite(x)) return x > 0 ? "too large" : x < 0 ? "too small" : "not a number";
  let text;
  if (x !== 0 && Math.abs(x) < 0.5 * 10 ** -digits) text = tiny(x);
  else text = Math.abs(x) >= 1e6 ? tiny(x) : x.toFixed(digits);
  if (Number(text) === 0 && x === 0) text = (0).toFixed(digits);
  return text.replace("-", MINUS);
}

/** 0.0000123 -> "1.2·10^-5", with real superscript digits. */
function tiny(x) {
  const [mantissa, exponent] = x.toExponential(1).split("e");
  const raised = exponent
    .replace("+", "")
    .replace(/./g, (ch) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(ch)]);
  return `${mantissa}·10${raised}`;
}

function percent(p) {
  if (p > 0 && p < 0.0005) return "<0.1%";
  return `${(p * 100).toFixed(p < 0.0995 ? 1 : 0)}%`;
}

function signed(x, digits = 3) {
  return (x < 0 ? "" : "+") + fmt(x, digits);
}

function commas(n) {
  return n.toLocaleString("en-US");
}

/** f, at most once a frame however often it is asked for. */
function perFrame(f) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      f();
    });
  };
}

/** f(width) now and when the width changes: in the next frame, because an observer that changes
    sizes at once makes the browser complain. */
function onWidth(node, f) {
  let width = 0;
  const tell = perFrame(() => f(width));
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width === width) return;
    width = contentRect.width;
    tell();
  }).observe(node);
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** A line that screen readers speak when it changes. */
function say(text) {
  $("#speaker").textContent = text;
}

/** A table with a header row: the twin of a chart. */
function table(caption, head, rows) {
  return el(
    "div.table-scroll",
    { tabindex: 0, role: "region", "aria-label": caption },
    el(
      "table",
      {},
      el("caption", {}, caption),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          head.map((h) => el("th", { scope: "col" }, h)),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map((row) =>
          el(
            "tr",
            {},
            row.map((c, i) => (i ? el("td", {}, c) : el("th", { scope: "row" }, c))),
          ),
        ),
      ),
    ),
  );
}

/** A "Show as a table" fold whose table is made when it is opened, and remade by refresh(). */
function tableTwin(host, make) {
  const body = el("div");
  const fold = el("details.twin", {}, el("summary", {}, "Show as a table"), body);
  const refresh = () => {
    if (fold.open) body.replaceChildren(make());
  };
  fold.addEventListener("toggle", refresh);
  host.append(fold);
  return refresh;
}
