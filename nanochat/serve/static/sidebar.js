// The list of chats: open, rename, export, delete. On a narrow screen it slides over the page.
// Read: setUpSidebar -> draw -> openMenu -> rename.
import { $, download, h, iconButton } from "./dom.js";
import { icon } from "./icons.js";
import { chatToMarkdown, textOf } from "./store.js";

let actions; // {open, renamed, remove} from app.js

export function setUpSidebar(given) {
  actions = given;
  $("new-chat").append(icon("plus", 18), "New chat");
  $("new-chat-top").append(icon("plus"));
  $("open-sidebar").append(icon("menu"));
  $("close-sidebar").append(icon("close"));
  $("open-sidebar").onclick = () => slide(true);
  $("close-sidebar").onclick = () => slide(false);
  $("shade").onclick = () => slide(false);
  $("search").addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !$("search").value) return;
    event.stopPropagation();
    $("search").value = "";
    $("search").dispatchEvent(new Event("input"));
  });
  $("menu").addEventListener("keydown", moveInMenu);
  // A narrow list that is out of sight must not be reached with the Tab key.
  narrow.addEventListener("change", () => slide(false, false));
  slide(false, false);
}

const narrow = matchMedia("(max-width: 860px)");

/** Show or hide the list on a narrow screen; a wide one always shows it. */
export function slide(open, moveFocus = true) {
  const over = narrow.matches && open;
  document.body.classList.toggle("list-open", over);
  $("sidebar").inert = narrow.matches && !open;
  $("main").inert = over;
  $("shade").hidden = !over;
  $("open-sidebar").setAttribute("aria-expanded", String(over));
  if (!narrow.matches || !moveFocus) return;
  (over ? $("close-sidebar") : $("open-sidebar")).focus();
}

export const isSlidOpen = () => document.body.classList.contains("list-open");

/** Draw the list: by day, the open chat marked, a dot where an answer is being written. */
export function draw(chats, currentId, isRunning) {
  const wanted = $("search").value.trim().toLowerCase();
  const found = wanted ? chats.filter((chat) => textOfChat(chat).includes(wanted)) : chats;
  const groups = new Map();
  for (const chat of found) {
    const day = dayOf(chat.updated);
    groups.set(day, [...(groups.get(day) ?? []), chat]);
  }
  const nodes = [...groups].map(([day, members]) =>
    h(
      "section",
      {},
      h("h2.day", {}, day),
      h("ul", {}, ...members.map((chat) => row(chat, chat.id === currentId, isRunning(chat.id)))),
    ),
  );
  if (!chats.length) nodes.push(h("p.nothing", {}, "Your chats will be listed here."));
  else if (!found.length) nodes.push(h("p.nothing", {}, "No chat holds these words."));
  $("search").hidden = !chats.length;
  $("chat-list").replaceChildren(...nodes);
}

/** What a search looks through: the name and every word of the branch that is shown. */
function textOfChat(chat) {
  return [chat.title, ...chat.messages.map(textOf)].join("\n").toLowerCase();
}

function dayOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - 86_400_000) return "Yesterday";
  return time >= midnight - 6 * 86_400_000 ? "This week" : "Earlier";
}

function row(chat, current, running) {
  const open = h("button.open", { type: "button", title: chat.title }, chat.title);
  open.onclick = () => actions.open(chat.id);
  if (current) open.setAttribute("aria-current", "true");
  const more = iconButton("dots", `More for ${chat.title}`, () => openMenu(chat, more, item));
  more.setAttribute("aria-haspopup", "menu");
  const item = h("li.chat-row", { "data-id": chat.id }, open, more);
  if (running) open.prepend(h("span.pulse", { title: "Being answered" }));
  return item;
}

/** One menu serves all rows; the browser closes it on Escape and on a click elsewhere. */
function openMenu(chat, button, item) {
  const menu = $("menu");
  const entry = (name, text, run) => {
    const choose = () => (menu.hidePopover(), run());
    return h("button", { type: "button", role: "menuitem", onclick: choose }, icon(name, 17), text);
  };
  const file = chat.title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) || "chat";
  menu.replaceChildren(
    entry("pen", "Rename", () => rename(chat, item)),
    entry("save", "Export as Markdown", () =>
      download(`${file}.md`, chatToMarkdown(chat), "text/markdown"),
    ),
    entry("save", "Export as JSON", () =>
      download(`${file}.json`, JSON.stringify(chat, null, 1), "application/json"),
    ),
    entry("trash", "Delete", () => actions.remove(chat)),
  );
  menu.lastChild.classList.add("danger");
  menu.showPopover();
  const at = button.getBoundingClientRect();
  const left = Math.min(at.left, innerWidth - menu.offsetWidth - 8);
  const below = at.bottom + menu.offsetHeight + 8 < innerHeight;
  menu.style.left = `${left}px`;
  menu.style.top = `${below ? at.bottom + 4 : at.top - menu.offsetHeight - 4}px`;
  menu.firstChild.focus();
}

function moveInMenu(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const entries = [...$("menu").children];
  const at = entries.indexOf(document.activeElement);
  entries[(at + step + entries.length) % entries.length].focus();
}

function rename(chat, item) {
  const input = h("input.rename", { value: chat.title, maxLength: 80, "aria-label": "Name of the chat" });
  let ended = false;
  const end = (keep) => {
    if (ended) return;
    ended = true;
    actions.renamed(chat, keep ? input.value.trim() : "");
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") {
      event.stopPropagation();
      end(false);
    }
  });
  input.addEventListener("blur", () => end(true));
  item.replaceChildren(input);
  input.focus();
  input.select();
}
