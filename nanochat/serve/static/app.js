// The page: which chat is open, what happens when something is sent, and the keys.
// Read: the state -> show -> send -> actions -> keys.
import { isRunning, start, stop } from "./answering.js";
import { fork, switchTo, tailsAt } from "./branches.js";
import { $, announce, toast } from "./dom.js";
import { icon } from "./icons.js";
import { AnswerView, branchLine, memoryLine, userMessage } from "./messages.js";
import { chosen, context, learnServer, openSettings, setUpSettings } from "./settings.js";
import { draw, isSlidOpen, setUpSidebar, slide } from "./sidebar.js";
import { fetchStats } from "./stream.js";
import * as store from "./store.js";
import { drawWelcome, openHelp } from "./welcome.js";

let chats = store.loadChats();
let chat = store.newChat(); // the open one; it joins the list with its first message
let views = new Map(); // message id -> its view

// --- showing ---

function show() {
  views = new Map();
  const nodes = chat.messages.map((message) => {
    const view = message.role === "user" ? userMessage(message, actions) : new AnswerView(message, actions);
    views.set(message.id, view);
    return view.root;
  });
  $("messages").replaceChildren(...nodes);
  showBranches();
  showMemoryLine();
  showFrame();
  scrollDown(true);
}

/** Everything around the messages. */
function showFrame() {
  $("welcome").hidden = chat.messages.length > 0;
  $("title").textContent = chat.messages.length ? chat.title : "New chat";
  document.title = chat.messages.length ? `${chat.title} · nanochat` : "nanochat";
  draw(chats, chat.id, isRunning);
  showSend();
}

function showSend() {
  const busy = isRunning(chat.id);
  const send = $("send");
  send.classList.toggle("busy", busy);
  send.setAttribute("aria-label", busy ? "Stop" : "Send");
  send.title = busy ? "Stop (Esc)" : "Send (Enter)";
  send.replaceChildren(icon(busy ? "stop" : "send", 20));
  send.disabled = !busy && !$("prompt").value.trim();
}

/** Mark where the model's memory of this chat begins, once it no longer holds all. */
function showMemoryLine() {
  document.querySelector(".memory-line")?.remove();
  const firstSeen = chat.messages.findLast((message) => message.role === "assistant")?.firstSeen;
  views.get(firstSeen)?.root.before(memoryLine(context()));
}

/** ‹ 2/3 › under a message that has rivals. */
function showBranches() {
  for (const line of document.querySelectorAll(".branches")) line.remove();
  chat.messages.forEach((message, at) => {
    const tails = tailsAt(chat, at);
    if (!tails) return;
    const go = (wanted) => actions.branch(at, wanted);
    views.get(message.id)?.root.append(branchLine(tails, go));
  });
}

// --- scrolling: follow the answer unless the reader went up ---

const box = $("scroll");
let following = true;

box.addEventListener("scroll", () => {
  following = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  $("jump").hidden = following;
});

function scrollDown(always = false) {
  if (!always && !following) return;
  following = true;
  box.scrollTop = chat.messages.length ? box.scrollHeight : 0; // the welcome is read from its top
}

// --- answering ---

function send(text) {
  if (!text.trim() || isRunning(chat.id)) return;
  chat.messages.push({ id: store.newId(), role: "user", text: text.trim() });
  if (!chat.named && chat.messages.length === 1) chat.title = titleFrom(text);
  if (!chats.includes(chat)) chats.unshift(chat);
  const message = chat.messages.at(-1);
  const view = userMessage(message, actions);
  views.set(message.id, view);
  $("messages").append(view.root);
  answer();
}

function titleFrom(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > 48 ? `${line.slice(0, 47).trimEnd()}…` : line;
}

/** Let the model answer the last message of the open chat. */
function answer() {
  const here = chat; // another chat may be opened meanwhile
  let frame = 0;
  let savedAt = Date.now();
  const paint = (message) => {
    frame = 0;
    if (here !== chat) return;
    views.get(message.id)?.update();
    scrollDown();
  };
  const changed = (message) => {
    if (here === chat && !views.has(message.id)) addAnswer(message);
    frame ||= requestAnimationFrame(() => paint(message)); // many tokens, one drawing
    if (Date.now() - savedAt > 1000) {
      savedAt = Date.now();
      save(here);
    }
  };
  const ended = (message) => {
    cancelAnimationFrame(frame);
    here.updated = Date.now();
    save(here);
    chats.sort((a, b) => b.updated - a.updated);
    paint(message);
    if (here === chat) {
      showBranches();
      showMemoryLine();
    }
    showFrame();
    announce(message.state === "failed" ? "" : spoken(message));
  };
  here.updated = Date.now();
  history.replaceState(null, "", `#${here.id}`);
  start(here, chosen(), changed, ended);
  save(here);
  showFrame();
  announce("The model is answering.");
}

/** What a screen reader says when an answer is complete. */
function spoken(message) {
  const count = message.sources?.length ?? 0;
  const sources = count ? ` ${count === 1 ? "1 source is" : `${count} sources are`} listed below.` : "";
  return (store.textOf(message) || "The answer is empty.") + sources;
}

function addAnswer(message) {
  const view = new AnswerView(message, actions);
  views.set(message.id, view);
  $("messages").append(view.root);
  scrollDown(true);
}

let warned = false;

function save(which) {
  if (!chats.includes(which) || store.saveChat(which) || warned) return;
  warned = true;
  toast("The browser has no room for more chats: export or delete some, or this one is lost on closing.");
}

// --- what messages and list can do ---

const actions = {
  /** Change what was said, forget what followed, and ask again. */
  edit(message, text) {
    restartAt(chat.messages.indexOf(message), (here) => {
      here.messages.push({ id: store.newId(), role: "user", text });
      if (!here.named && here.messages.length === 1) here.title = titleFrom(text);
    });
  },
  regenerate(message) {
    restartAt(chat.messages.indexOf(message), () => {});
  },
  /** Show another branch, once an answer in progress has stopped. */
  branch(at, wanted) {
    stop(chat.id);
    const here = chat;
    const go = () => {
      if (isRunning(here.id)) return setTimeout(go, 10);
      switchTo(here, at, wanted);
      save(here);
      if (here === chat) show();
    };
    go();
  },
  newChat() {
    open(store.newChat());
  },
  typeKey() {
    openSettings();
    $("set-key")?.focus();
  },
  open(id) {
    const wanted = chats.find((c) => c.id === id);
    if (wanted) open(wanted);
  },
  renamed(which, name) {
    if (name && name !== which.title) {
      which.title = name;
      which.named = true;
      save(which);
    }
    showFrame();
  },
  remove(which) {
    stop(which.id);
    chats = chats.filter((c) => c !== which);
    store.removeChat(which.id);
    if (which === chat) open(store.newChat());
    else showFrame();
    const undo = () => {
      chats = [which, ...chats].sort((a, b) => b.updated - a.updated);
      save(which);
      open(which);
    };
    toast(`Deleted “${which.title}”.`, { label: "Undo", run: undo });
  },
};

let dropBranchNote = () => {}; // its Undo is of no use in another chat

/** Begin a new branch before message `at`, change it, ask again; the old one can be had back. */
function restartAt(at, change) {
  if (at < 0) return;
  stop(chat.id);
  const here = chat;
  const go = () => {
    if (isRunning(here.id)) return setTimeout(go, 10); // the stopped answer is still closing
    const later = here.messages.length > at + 2;
    fork(here, at);
    const before = tailsAt(here, at).at - 1;
    change(here);
    save(here);
    if (here !== chat) return;
    show();
    answer();
    if (!later) return;
    const undo = () => here === chat && actions.branch(at, before);
    dropBranchNote = toast("The turns after this one are on another branch.", { label: "Undo", run: undo });
  };
  go();
}

function open(which) {
  dropBranchNote();
  chat = which;
  history.replaceState(null, "", which.messages.length ? `#${which.id}` : location.pathname);
  const narrow = isSlidOpen();
  show();
  if (narrow) slide(false);
  if (!matchMedia("(pointer: coarse)").matches) $("prompt").focus(); // no keyboard in the way
}

// --- the message box ---

function fitPrompt() {
  const area = $("prompt");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
  showSend();
}

function submit(event) {
  event?.preventDefault();
  if (isRunning(chat.id)) return stop(chat.id);
  const text = $("prompt").value;
  if (!text.trim()) return;
  $("prompt").value = "";
  fitPrompt();
  send(text);
}

function editLast() {
  const message = chat.messages.findLast(({ role }) => role === "user");
  views.get(message?.id)?.openEditor();
}

function promptKeys(event) {
  const touch = matchMedia("(pointer: coarse)").matches; // there Enter is the only way to a new line
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch) {
    event.preventDefault();
    if (!isRunning(chat.id)) submit();
  } else if (event.key === "ArrowUp" && !$("prompt").value && chat.messages.length) {
    event.preventDefault();
    editLast();
  }
}

function pageKeys(event) {
  const control = event.ctrlKey || event.metaKey;
  const typing = event.target.matches?.("input, textarea, select");
  const open = document.querySelector("dialog[open], :popover-open"); // Escape closes that first
  const key = event.key.toLowerCase();
  let run = null;
  if (control && event.shiftKey && key === "o") run = actions.newChat;
  else if (control && key === ",") run = openSettings;
  else if (event.key === "Escape" && !open && isSlidOpen()) run = () => slide(false);
  else if (event.key === "Escape" && !open && isRunning(chat.id)) run = () => stop(chat.id);
  else if (control && !event.shiftKey && key === "k") run = () => (slide(true, false), $("search").focus());
  else if (!typing && !control && event.key === "?") run = openHelp;
  else if (!typing && !control && !open && event.key === "/") run = () => $("prompt").focus();
  if (!run) return;
  event.preventDefault();
  run();
}

// --- start ---

async function main() {
  setUpSidebar(actions);
  $("search").addEventListener("input", () => draw(chats, chat.id, isRunning));
  setUpSettings();
  drawWelcome(send);
  $("help").append(icon("help"));
  $("help").onclick = openHelp;
  $("jump").append(icon("down", 18));
  $("jump").onclick = () => scrollDown(true);
  $("new-chat").onclick = $("new-chat-top").onclick = actions.newChat;
  $("composer").addEventListener("submit", submit);
  $("prompt").addEventListener("input", fitPrompt);
  $("prompt").addEventListener("keydown", promptKeys);
  document.addEventListener("keydown", pageKeys);
  addEventListener("beforeunload", () => isRunning(chat.id) && save(chat));
  store.onOtherTab(takeOver);
  if (!store.isLasting) $("saved-note").textContent = "Chats are lost when this page closes";
  open(reopened() ?? chat);
  await greetServer();
}

/** After a reload the same chat is open again. */
function reopened() {
  const id = location.hash.slice(1);
  return id ? chats.find((c) => c.id === id) : undefined;
}

/** Another tab changed a chat: show its state, unless this tab is writing it. */
function takeOver(id) {
  if (isRunning(id)) return;
  const fresh = store.loadChat(id);
  chats = chats.filter((c) => c.id !== id);
  if (fresh) chats = [fresh, ...chats].sort((a, b) => b.updated - a.updated);
  if (chat.id === id && fresh) {
    chat = fresh;
    show();
  } else showFrame();
}

async function greetServer() {
  try {
    learnServer(await fetchStats());
    showMemoryLine();
  } catch {
    toast("The server does not answer. Is it still running?", { label: "Try again", run: greetServer });
  }
}

main();
