// The drawer with the dials of an answer, and the choice of colours.
// Read: DIALS -> chosen -> setUpSettings -> dial -> about.
import { $, h, iconButton, toast } from "./dom.js";
import { icon } from "./icons.js";
import { loadKey, loadSettings, loadTheme, saveKey, saveSettings, saveTheme } from "./store.js";

const DIALS = [
  {
    name: "temperature", title: "Temperature", min: 0, max: 2, step: 0.05,
    help: "0 always takes the likeliest token; higher is more surprising.",
  },
  {
    name: "top_k", title: "Top-k", min: 0, max: 200, step: 1, off: 0,
    help: "Choose among the k likeliest tokens only.",
  },
  {
    name: "top_p", title: "Top-p", min: 0.05, max: 1, step: 0.05, off: 1,
    help: "Choose among the likeliest tokens that together hold this share.",
  },
  {
    name: "max_tokens", title: "Longest answer", min: 16, max: 512, step: 16, unit: "tokens",
    help: "The answer is cut here; a tool's result counts too.",
  },
];

let changed = loadSettings(); // only what differs from the server's defaults
let server = null; // /stats, when it has arrived

/** What goes into a request: the person's choices; what they left alone is the server's to say. */
export function chosen() {
  const settings = { ...changed };
  for (const name of ["seed", "system"]) if (settings[name] === "") delete settings[name];
  return settings;
}

export const context = () => server?.model.context ?? 0;

const FALLBACK = { temperature: 0.6, top_k: 50, top_p: 1, max_tokens: 256 };
const valueOf = (name) => changed[name] ?? server?.defaults[name] ?? FALLBACK[name];

export function setUpSettings() {
  $("open-settings").append(icon("sliders"));
  $("open-settings").onclick = openSettings;
  $("settings").addEventListener("click", (event) => {
    if (event.target === $("settings")) $("settings").close(); // a click on the shade around it
  });
  setUpTheme();
}

/** `stats` is the server's /stats. */
export function learnServer(stats) {
  server = stats;
  const dial = DIALS.find(({ name }) => name === "max_tokens");
  dial.max = Math.min(stats.limits.max_tokens_limit, Math.ceil(stats.model.context / 16) * 16);
  $("model-chip").textContent = stats.model.name;
  $("model-chip").title = `${millions(stats.model.parameters)} parameters`;
  $("model-chip").hidden = false;
}

export const millions = (n) => (n >= 1e6 ? `${(n / 1e6).toFixed(1)} million` : n.toLocaleString("en"));

export function openSettings() {
  if ($("settings").open) return;
  draw();
  $("settings").showModal();
}

function draw() {
  const close = iconButton("close", "Close", () => $("settings").close());
  const reset = h("button.plain", { type: "button", onclick: resetAll }, "Reset to defaults");
  $("settings").replaceChildren(
    h("header", {}, h("h2", { id: "settings-title" }, "Settings"), close),
    h("p.drawer-note", {}, "Used from the next answer on, in every chat."),
    ...DIALS.map(dial),
    seedField(),
    systemField(),
    ...(server?.needs_key ? [keyField()] : []),
    h("footer", {}, reset, about()),
  );
}

function keep(name, value) {
  changed[name] = value;
  saveSettings(changed);
}

function resetAll() {
  changed = {};
  saveSettings(changed);
  draw();
  toast("All settings are back to their defaults.");
}

function dial({ name, title, min, max, step, help, unit, off }) {
  const shown = (value) => (value === off ? "off" : `${value}${unit ? ` ${unit}` : ""}`);
  const output = h("output", {}, shown(valueOf(name)));
  const input = h("input", { type: "range", min, max, step, id: `set-${name}`, value: valueOf(name) });
  input.setAttribute("aria-describedby", `help-${name}`);
  input.setAttribute("aria-valuetext", shown(valueOf(name)));
  input.oninput = () => {
    const value = Number(input.value);
    output.textContent = shown(value);
    input.setAttribute("aria-valuetext", shown(value));
    keep(name, value);
  };
  const head = h("div.field-head", {}, h("label", { htmlFor: input.id }, title), output);
  return h("div.field", {}, head, input, h("p.field-help", { id: `help-${name}` }, help));
}

function seedField() {
  const input = h("input", { type: "number", min: 0, step: 1, id: "set-seed", placeholder: "random" });
  input.value = changed.seed ?? "";
  input.inputMode = "numeric";
  input.oninput = () => {
    const whole = input.validity.valid && input.value !== "" && Number.isSafeInteger(+input.value);
    keep("seed", whole ? Number(input.value) : "");
  };
  const help = "The same seed and settings give the same answer. Empty: a new one each time.";
  return h(
    "div.field",
    {},
    h("label", { htmlFor: "set-seed" }, "Seed"),
    input,
    h("p.field-help", {}, help),
  );
}

function systemField() {
  const area = h("textarea", { id: "set-system", rows: 3, value: changed.system ?? "" });
  area.placeholder = "For example: Answer in one short sentence.";
  area.oninput = () => keep("system", area.value);
  const help = "Put before the first message. A small model may not follow it.";
  return h(
    "div.field",
    {},
    h("label", { htmlFor: "set-system" }, "System prompt"),
    area,
    h("p.field-help", {}, help),
  );
}

function keyField() {
  const input = h("input", { type: "password", id: "set-key", autocomplete: "off", value: loadKey() });
  input.oninput = () => saveKey(input.value);
  const help = "This server asks for one. It is forgotten when the tab is closed.";
  return h(
    "div.field",
    {},
    h("label", { htmlFor: "set-key" }, "API key"),
    input,
    h("p.field-help", {}, help),
  );
}

function about() {
  if (!server) return h("p.about", {}, "The server has not said which model it serves.");
  const { name, parameters, context: tokens } = server.model;
  const size = `${millions(parameters)} parameters, a context of ${tokens.toLocaleString("en")} tokens`;
  return h("p.about", {}, h("strong", {}, name), h("br"), size);
}

const THEMES = {
  auto: ["auto", "Colours follow the system"],
  light: ["sun", "Light colours"],
  dark: ["moon", "Dark colours"],
};

function setUpTheme() {
  const button = $("theme");
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const [drawing, label] = THEMES[theme];
    button.replaceChildren(icon(drawing));
    button.title = `${label}; click to change`;
    button.setAttribute("aria-label", button.title);
  };
  button.onclick = () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(loadTheme()) + 1) % names.length];
    saveTheme(next);
    show(next);
  };
  show(loadTheme() in THEMES ? loadTheme() : "auto");
}
