/* Small pictures used by several sections: a strip of numbers, bars of chances, a word in tiles.

   A strip is a listbox: Tab reaches it, the arrows walk along it, and a line below spells out how
   the chosen number came about. Read: strip -> ChanceBars -> tiles. */
"use strict";

let widgetCount = 0;

/** A row of coloured cells, one a number. choose(i) is told which one is looked at.
    Give `limit` so that several strips share one scale. */
function strip(label, numbers, { limit = largest(numbers), names = null, choose, part = "" } = {}) {
  const id = `strip${++widgetCount}`;
  const cells = Array.from(numbers, (x, i) =>
    el(
      "div.cell",
      {
        role: "option",
        id: `${id}-${i}`,
        "aria-selected": "false",
        "aria-label": `${names ? names[i] : i}: ${fmt(x)}`,
        style: { background: rampColour(x, limit), color: inkOn(x, limit) },
      },
      el("span", {}, names ? names[i] : Math.abs(x) < 0.005 ? "0.00" : fmt(x, 2)), // room for 5
    ),
  );
  const box = el(
    `div.strip.${part || "plain"}`,
    {
      role: "listbox",
      tabindex: 0,
      "aria-label": `${label}, ${numbers.length} numbers`,
      "data-size": numbers.length,
    },
    cells,
  );
  const pick = (i) => {
    cells.forEach((cell, k) => cell.setAttribute("aria-selected", String(k === i)));
    box.setAttribute("aria-activedescendant", `${id}-${i}`);
    choose?.(i);
  };
  walkable(
    box,
    () => cells.findIndex((cell) => cell.getAttribute("aria-selected") === "true"),
    pick,
    numbers.length,
  );
  box.addEventListener("pointerover", (event) => {
    const at = cells.indexOf(event.target.closest(".cell"));
    if (at >= 0) pick(at);
  });
  box.pick = pick;
  return box;
}

/** Left and right arrows, Home and End move through `count` items of `box`. */
function walkable(box, current, pick, count) {
  box.addEventListener("keydown", (event) => {
    const to = {
      ArrowRight: current() + 1,
      ArrowLeft: Math.max(0, current() - 1),
      Home: 0,
      End: count - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    pick(Math.min(count - 1, to));
  });
}

const TOKEN_NAMES = [...LETTERS, "BOS"];

/** 27 upright bars, one a token; show() moves them. Bars slide up and down behind the edge of their
    frame, which costs the browser no layout. */
class ChanceBars {
  constructor(label = "Chances") {
    this.label = label;
    this.slots = Array.from({ length: CONFIG.vocabulary }, (_, i) => this.slot(i));
    this.node = el(
      "div.bars",
      { role: "img" },
      this.slots.map((s) => s.node),
    );
  }

  slot(i) {
    const [bar, ghost] = [el("div.bar"), el("div.bar-ghost")];
    const name = el("div.bar-name", {}, i === BOS ? "■" : LETTERS[i]);
    return { bar, ghost, node: el("div", {}, el("div.bar-area", {}, ghost, bar), name) };
  }

  /** options: chosen, wanted (outlined), before (a ghost bar). */
  show(probs, { chosen = -1, wanted = -1, before = null } = {}) {
    const top = Math.max(...probs, ...(before || [0]));
    const best = probs.indexOf(Math.max(...probs));
    const lower = (p) => `translateY(min(100% - 1px, ${100 - (p / top) * 100}%))`;
    this.slots.forEach(({ node, bar, ghost }, i) => {
      const state = [i === chosen && "chosen", i === wanted && "wanted", i === BOS && "bos"];
      node.className = ["bar-slot", ...state.filter(Boolean)].join(" ");
      node.title = `${TOKEN_NAMES[i]}: ${percent(probs[i])}`;
      bar.style.transform = lower(probs[i]);
      ghost.hidden = !before;
      if (before) ghost.style.transform = lower(before[i]);
    });
    const said = `most likely ${TOKEN_NAMES[best]} with ${percent(probs[best])}`;
    this.node.setAttribute("aria-label", `${this.label}: ${said}`);
    return this.node;
  }
}

/** The chances as table rows, most likely first. */
function chanceRows(probs, count = CONFIG.vocabulary) {
  return Array.from(probs, (p, i) => [i, p])
    .sort((a, b) => b[1] - a[1])
    .slice(0, count)
    .map(([i, p]) => [TOKEN_NAMES[i], percent(p), fmt(p, 6)]);
}

/** One token as a tile: its letter above, its number below. BOS has its own border. */
function tile(id, extra = {}) {
  const bos = id === BOS;
  const { tag = "div", ...attributes } = extra;
  return el(
    tag,
    { ...attributes, class: `tile ${bos ? "bos" : ""} ${extra.class ?? ""}` },
    el("span.tile-text", {}, tokenText(id)),
    el("span.tile-id", {}, String(id)),
  );
}

/** The word in use as buttons; pressing one chooses that position. */
function positionPicker(host) {
  const draw = () => {
    const tokens = tokenize(readableWord()).slice(0, -1);
    renew(
      host,
      tokens.map((id, t) =>
        tile(id, {
          tag: "button",
          type: "button",
          "aria-pressed": String(t === positionNow()),
          "aria-label": `position ${t}: ${tokenText(id)}`,
          onclick: () => {
            state.set({ pos: t });
          },
        }),
      ),
    );
    host.classList.add("tiles");
  };
  const keepFocus = () => {
    const focused = host.contains(document.activeElement);
    draw();
    if (focused) host.children[positionNow()]?.focus();
  };
  live(host.closest("section").id, ["word", "pos"], keepFocus);
}

/** A text field for the word, with its complaint below. Several sections have one. */
function wordField(host) {
  const id = `word${++widgetCount}`;
  const input = el("input", {
    id,
    type: "text",
    value: state.values.word,
    autocomplete: "off",
    autocapitalize: "none",
    spellcheck: "false",
    maxlength: 40,
    "aria-describedby": `${id}-note`,
    oninput: () => state.set({ word: input.value.trim().toLowerCase() }),
  });
  const note = el("p.problem", { id: `${id}-note`, role: "status" });
  host.append(el("label", { for: id }, host.dataset.label || "The word"), input, note);
  const check = () => {
    const { word } = state.values;
    if (document.activeElement !== input) input.value = word;
    const why = whyNotReadable(word);
    note.textContent = why && `${why} Below, the pictures stay with “${readableWord()}”.`;
    input.setAttribute("aria-invalid", String(Boolean(why)));
  };
  state.on(["word"], check);
  check();
}

/** Connects <input type=range> to a state value, with its number shown beside it. */
function slider(input, key, show = (x) => fmt(x, 1)) {
  const out = input.parentElement.querySelector("output");
  const sync = () => {
    if (Number(input.value) !== state.values[key]) input.value = state.values[key];
    out.textContent = show(state.values[key]);
    input.setAttribute("aria-valuetext", show(state.values[key]));
  };
  input.addEventListener("input", () => state.set({ [key]: Number(input.value) }));
  state.on([key], sync);
  sync();
}

/** Connects a group of buttons with data-value to a state value. */
function choice(group, key, convert = (x) => x) {
  const sync = () =>
    $$("button", group).forEach((b) => {
      b.setAttribute("aria-pressed", String(convert(b.dataset.value) === state.values[key]));
    });
  group.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-value]");
    if (button) state.set({ [key]: convert(button.dataset.value) });
  });
  state.on([key], sync);
  sync();
}
