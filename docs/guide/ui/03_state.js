/* Everything a visitor chose, in one place and in the address bar.

   state.set({word: "ada"}) tells whoever asked state.on(["word"], f), and rewrites the address, so
   a copied link shows the same thing. Values that equal the default stay out of the address.
   Read: DEFAULTS -> read -> state. */
"use strict";

/** Each value with the check that a hand-written address must pass. `parts`: steps in a whole. */
const oneOf =
  (...allowed) =>
  (text) =>
    allowed.includes(text) ? text : null;
const number =
  (low, high, parts = 1) =>
  (text) => {
    const n = Number(text);
    if (text === "" || !Number.isFinite(n)) return null;
    return Math.min(high, Math.max(low, Math.round(n * parts) / parts));
  };
const text = (most) => (t) => t.slice(0, most);

const DEFAULTS = {
  word: ["olivia", text(40)],
  pos: [4, number(0, 15)],
  op: [0, number(0, 40)],
  head: [0, number(0, 3)],
  key: [0, number(0, 15)],
  sharp: [1, number(0, 8, 20)],
  off: ["", (t) => [...new Set(t.match(/[0-3]/g) || [])].sort().join("")],
  graph: ["multiplication", oneOf("addition", "multiplication", "softmax", "relu", "twice", "own")],
  expr: ["(a * b + c).relu() * a", text(80)],
  a: [2, number(-3, 3, 10)],
  b: [-1.5, number(-3, 3, 10)],
  c: [1, number(-3, 3, 10)],
  back: [0, number(0, 99)],
  temp: [0.5, number(0.1, 2, 10)],
  draw: [1, number(1, 9999)],
  seen: [-1, number(-1, 16)],
  model: ["trained", oneOf("born", "trained", "mine")],
  steps: [0, number(0, CONFIG.steps)],
  param: [0, number(0, PARAMETERS - 1)],
};

const state = {
  values: Object.fromEntries(Object.entries(DEFAULTS).map(([k, [value]]) => [k, value])),
  section: "",
  listeners: [],

  /** Calls f once a frame after any of `keys` changed. */
  on(keys, f) {
    this.listeners.push({ keys, f: perFrame(f) });
  },

  set(patch) {
    const changed = Object.keys(patch).filter((k) => this.values[k] !== patch[k]);
    if (!changed.length) return;
    Object.assign(this.values, patch);
    this.tell(changed);
    this.writeAddress();
  },

  tell(changed) {
    for (const { keys, f } of this.listeners) if (keys.some((k) => changed.includes(k))) f();
  },

  /** "#attention?word=ada&head=2" */
  address() {
    const parts = new URLSearchParams();
    for (const [key, [value]] of Object.entries(DEFAULTS)) {
      if (this.values[key] !== value) parts.set(key, roundedText(this.values[key]));
    }
    const query = parts.toString();
    return `#${this.section}${query ? `?${query}` : ""}`;
  },

  writeAddress: (() => {
    let timer = 0; // browsers refuse more than about 100 rewrites in 30 s
    return function write() {
      clearTimeout(timer);
      timer = setTimeout(() => {
        try {
          history.replaceState(null, "", state.address());
        } catch {
          /* some file viewers */
        }
      }, 350);
    };
  })(),

  /** Takes what is valid in the address and ignores the rest. */
  readAddress() {
    const [section, query = ""] = location.hash.slice(1).split("?");
    this.section = section;
    for (const [key, raw] of new URLSearchParams(query)) {
      const value = Object.hasOwn(DEFAULTS, key) ? DEFAULTS[key][1](raw) : null;
      if (value !== null) this.values[key] = value;
    }
  },
};

function roundedText(value) {
  return typeof value === "number" ? String(Math.round(value * 1000) / 1000) : value;
}
