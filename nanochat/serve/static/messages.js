// Messages as DOM nodes: the person's bubble with its editor, the model's answer with its calculator
// cards and sources, the line of numbers below it, and what is shown when something went wrong.
// Read: userMessage -> AnswerView -> toolCard -> statsLine.
import { copyButton, h, iconButton } from "./dom.js";
import { icon } from "./icons.js";
import { renderMarkdown } from "./markdown.js";
import { citation, readSources, sourceList } from "./sources.js";
import { textOf } from "./store.js";

const STOP_WORDS = {
  stop: "finished",
  length: "reached the token limit",
  context: "the context is full",
};

/** What the person said. `actions.edit(message, text)` restarts the chat from there. */
export function userMessage(message, actions) {
  const bubble = h("div.bubble", {}, message.text);
  const tools = h(
    "div.tools",
    {},
    copyButton("Copy", () => message.text),
    iconButton("pen", "Edit and ask again", () => openEditor()),
  );
  const root = h("div.message.user", { role: "listitem" }, label("You"), bubble, tools);
  const openEditor = () => {
    const editor = editorOf(message.text, close, (text) => actions.edit(message, text));
    root.replaceChildren(label("You"), editor);
    editor.querySelector("textarea").focus();
  };
  const close = () => {
    root.replaceChildren(label("You"), bubble, tools);
    tools.lastChild.focus();
  };
  return { root, openEditor };
}

/** Who speaks, for those who hear the page: a heading, so that one can step from turn to turn. */
function label(text) {
  return h("h2.hidden", {}, `${text}: `);
}

function editorOf(text, cancel, save) {
  const area = h("textarea", { value: text, rows: Math.min(10, text.split("\n").length + 1) });
  area.setAttribute("aria-label", "Your message");
  const submit = () => area.value.trim() && save(area.value.trim());
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      cancel();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
  });
  const buttons = h(
    "div.editor-buttons",
    {},
    h("span.editor-note", {}, "What follows is written anew."),
    h("button.plain", { type: "button", onclick: cancel }, "Cancel"),
    h("button.primary", { type: "button", onclick: submit }, "Ask again"),
  );
  return h("div.editor", {}, area, buttons);
}

/** The model's answer; `update()` shows the message as it is now. */
export class AnswerView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.shown = []; // [key, node] of each part, so that finished ones are not built again
    this.body = h("div.answer");
    this.sources = h("div");
    this.foot = h("div.foot");
    const mark = h("img.avatar", { src: "/static/icon.svg", alt: "", width: 28, height: 28 });
    const column = h("div.column", {}, label("nanochat"), this.body, this.sources, this.foot);
    this.root = h("div.message.assistant", { role: "listitem" }, mark, column);
    this.update();
  }

  update() {
    const { state } = this.message;
    this.root.classList.toggle("streaming", state === "streaming");
    this.root.setAttribute("aria-busy", String(state === "streaming"));
    const sources = readSources(this.message.sources); // the store may hold anything
    this.showParts(sources);
    this.showSources(sources);
    const empty = !this.message.parts.length;
    this.root.classList.toggle("waiting", state === "streaming" && empty);
    if (state === "streaming") this.foot.replaceChildren();
    else this.showFoot();
  }

  showParts(sources) {
    const wanted = cardsOf(this.message, sources);
    wanted.forEach(({ key, build }, n) => {
      if (this.shown[n]?.key === key) return;
      const node = build();
      if (this.shown[n]) this.shown[n].node.replaceWith(node);
      else this.body.append(node);
      this.shown[n] = { key, node };
    });
    for (const { node } of this.shown.splice(wanted.length)) node.remove();
  }

  showSources(sources) {
    const key = JSON.stringify(sources);
    if (this.sourcesShown === key) return; // a list that was opened stays open
    this.sourcesShown = key;
    this.sources.replaceChildren(...(sources.length ? [sourceList(this.message, sources)] : []));
  }

  showFoot() {
    const { message, actions } = this;
    const nodes = [];
    if (message.state === "stopped" && !message.parts.length) {
      nodes.push(h("p.note", {}, "Stopped before the first word."));
    }
    if (message.state === "failed") nodes.push(errorBubble(message, actions));
    else {
      const again = iconButton("redo", "Answer again", () => actions.regenerate(message));
      const copy = copyButton("Copy the answer", () => textOf(message));
      nodes.push(h("div.tools", {}, copy, again, statsLine(message)));
    }
    this.foot.replaceChildren(...nodes);
  }
}

/** Parts -> what to show: text as Markdown, a call with its result as one card. */
function cardsOf(message, sources) {
  const { parts } = message;
  const cards = [];
  const cite = (id) => citation(message, sources, id);
  const cited = sources.map(({ id, title }) => `${id} ${title}`).join();
  parts.forEach((part, n) => {
    if (part.type === "text") {
      if (!part.text.trim()) return;
      const build = () => h("div.text", {}, ...renderMarkdown(part.text, cite));
      cards.push({ key: `text ${cited} ${part.text}`, build });
    } else if (part.type === "python") {
      const next = parts[n + 1];
      const result = next?.type === "python_output" ? next.text : null;
      const settled = result !== null || next !== undefined;
      const build = () => toolCard(part.text, result, settled);
      cards.push({ key: `call ${part.text} ${result} ${settled}`, build });
    }
  });
  return cards;
}

const SIGNS = { "*": " × ", "/": " ÷ ", "+": " + ", "-": " − " };

/** What the model asked the calculator, and what the calculator answered. */
function toolCard(expression, result, settled) {
  const written = expression.replace(/[-*/+]/g, (sign) => SIGNS[sign]).replace(/ {2,}/g, " ").trim();
  const value = result ?? (settled ? "no result" : "…");
  const sum = h(
    "div.sum",
    {},
    h("code.expression", { title: `The model wrote ${expression}` }, written),
    h("span.equals", {}, "="),
    h(result === null ? "span.no-value" : "strong.value", {}, value),
  );
  const head = h("div.tool-head", {}, icon("calculator", 16), "Calculator");
  return h("div.tool-card", { role: "group", "aria-label": "Calculator" }, head, sum);
}

/** 37 tokens · 112 tokens/s · finished · seed 12 */
function statsLine(message) {
  const { stats, state } = message;
  if (state === "stopped") return h("span.stats", {}, "stopped by you");
  if (!stats) return h("span.stats");
  const speed = stats.tokensPerSecond && `${round(stats.tokensPerSecond)} tokens/s`;
  const words = [
    `${stats.tokens} ${stats.tokens === 1 ? "token" : "tokens"}`,
    speed,
    STOP_WORDS[stats.stop] ?? stats.stop,
    `seed ${stats.seed}`,
  ];
  const line = h("span.stats", {}, words.filter(Boolean).join(" · "));
  const first = Math.round(stats.firstTokenSeconds * 1000);
  line.title =
    `The prompt was ${stats.promptTokens} tokens; the first word came after ${first} ms. ` +
    "The same seed and settings give the same answer.";
  return line;
}

const round = (x) => (x >= 100 ? Math.round(x) : x.toFixed(1));

function errorBubble(message, actions) {
  const { code, message: text } = message.error ?? { message: "Something broke on this page." };
  const retry = h("button.primary", { type: "button", onclick: () => actions.regenerate(message) });
  retry.append(icon("redo", 16), "Try again");
  const buttons = h("div.error-buttons", {}, retry);
  if (code === "context_length_exceeded") {
    buttons.replaceChildren(h("button.primary", { type: "button", onclick: actions.newChat }, "New chat"));
  }
  const keyless = code === "invalid_api_key"; // the server's own words are for programs
  if (keyless) buttons.append(h("button.plain", { type: "button", onclick: actions.typeKey }, "Enter the API key"));
  const said = keyless ? "This server asks for an API key, and does not know the one it got." : text;
  return h("div.error", { role: "alert" }, icon("alert", 20), h("div", {}, h("p", {}, said), buttons));
}

/** ‹ 2/3 ›: which of several versions of this turn is shown. `go(n)` shows another. */
export function branchLine({ count, at }, go) {
  const step = (name, label, to) => {
    const button = iconButton(name, label, () => go(to));
    button.disabled = to < 0 || to >= count;
    return button;
  };
  return h(
    "div.branches",
    { role: "group", "aria-label": "Versions of this turn" },
    step("left", "Earlier version", at - 1),
    h("span", {}, `${at + 1}/${count}`),
    step("right", "Later version", at + 1),
  );
}

/** The line above the first message that the model still read. */
export function memoryLine(context) {
  const text = `The model no longer sees what is above: its context is ${context.toLocaleString("en")} tokens`;
  return h("div.memory-line", { role: "listitem" }, h("span", {}, text));
}
