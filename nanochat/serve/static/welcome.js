// What an empty chat shows, and the page of keys.
import { $, h, iconButton } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { icon } from "./icons.js";

export function drawWelcome(send) {
  const cards = EXAMPLES.map(({ icon: name, label, prompt }) => {
    const words = h("span", {}, h("strong", {}, label), h("span.prompt-text", {}, prompt));
    return h("button.example", { type: "button", onclick: () => send(prompt) }, icon(name, 20), words);
  });
  $("welcome").replaceChildren(
    h("img.big-mark", { src: "/static/icon.svg", alt: "", width: 64, height: 64 }),
    h("h2", {}, "Hello. What shall we try?"),
    h(
      "p",
      {},
      "You are talking to a small language model. It knows little stories, sums and spelling, ",
      "and it will tell you when it does not know.",
    ),
    h("div.examples", {}, ...cards),
  );
}

const KEYS = [
  [["Enter"], "Send the message"],
  [["Shift", "Enter"], "A new line"],
  [["Esc"], "Stop the answer, close what is open"],
  [["↑"], "Edit your last message, when the box is empty"],
  [["/"], "Go to the message box"],
  [["Ctrl", "Shift", "O"], "New chat"],
  [["Ctrl", "K"], "Search the chats"],
  [["Ctrl", ","], "Settings"],
  [["?"], "This page"],
];

export function openHelp() {
  const dialog = $("help-dialog");
  if (dialog.open) return;
  const mac = /Mac|iPhone|iPad/.test(navigator.platform);
  const caps = (keys) =>
    keys.flatMap((key, n) => [n ? "+" : "", h("kbd", {}, mac && key === "Ctrl" ? "⌘" : key)]);
  const rows = KEYS.flatMap(([keys, what]) => [h("dt", {}, ...caps(keys)), h("dd", {}, what)]);
  dialog.replaceChildren(
    h(
      "header",
      {},
      h("h2", { id: "help-title" }, "Keys and help"),
      iconButton("close", "Close", () => dialog.close()),
    ),
    h("dl.keys", {}, ...rows),
    h(
      "p",
      {},
      "Chats are kept in this browser only; the server forgets each one when it has answered. ",
      "Amber cards show what the model asked the calculator, and what the calculator said. ",
      "Where an answer has sources they are listed below it, and a [1] in its text leads to the first.",
    ),
  );
  dialog.onclick = (event) => event.target === dialog && dialog.close();
  dialog.showModal();
}
