// What this browser remembers: each chat under its own key, so that one damaged or changed chat
// never touches another, and two open tabs don't overwrite each other's.
//
// A chat: {id, title, named, created, updated, messages}
// A message: {id, role: "user", text}
//          | {id, role: "assistant", parts: [{type, text}], sources, state, stats, error}
//   part.type  text | python | python_output, as the server takes them
//   sources    [{id, title, url, text}, ...], only where the answer came with some
//   state      streaming | done | stopped | failed

const CHAT = "nanochat:chat:";
const SETTINGS = "nanochat:settings";
const THEME = "nanochat:theme";
const KEY = "nanochat:api-key";

/** localStorage, or a stand-in for this visit where the browser blocks it. */
const storage = (() => {
  try {
    localStorage.setItem("nanochat:probe", "1");
    localStorage.removeItem("nanochat:probe");
    return localStorage;
  } catch {
    const kept = new Map();
    return {
      getItem: (key) => kept.get(key) ?? null,
      setItem: (key, value) => kept.set(key, value),
      removeItem: (key) => kept.delete(key),
      key: (n) => [...kept.keys()][n],
      get length() {
        return kept.size;
      },
    };
  }
})();

export const isLasting = storage === globalThis.localStorage;

export function newId() {
  return Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
}

export function newChat() {
  const now = Date.now();
  return { id: newId(), title: "New chat", named: false, created: now, updated: now, messages: [] };
}

/** All readable chats, the newest first. What can't be read stays stored but is not shown. */
export function loadChats() {
  const chats = [];
  for (let n = 0; n < storage.length; n += 1) {
    const key = storage.key(n);
    const chat = key.startsWith(CHAT) ? readChat(key) : null;
    if (chat) chats.push(chat);
  }
  return chats.sort((a, b) => b.updated - a.updated);
}

export function loadChat(id) {
  return readChat(CHAT + id);
}

function readChat(key) {
  try {
    const chat = JSON.parse(storage.getItem(key));
    return isChat(chat) ? repaired(chat) : null;
  } catch {
    return null;
  }
}

function isChat(chat) {
  return Boolean(
    chat &&
      typeof chat.id === "string" &&
      typeof chat.title === "string" &&
      Array.isArray(chat.messages) &&
      chat.messages.every((m) =>
        m.role === "user" ? typeof m.text === "string" : Array.isArray(m.parts),
      ),
  );
}

/** An answer that was being written when the page was closed did stop there. */
function repaired(chat) {
  for (const message of chat.messages) {
    if (message.state === "streaming") message.state = "stopped";
  }
  return chat;
}

/** Returns false when the browser has no room left. */
export function saveChat(chat) {
  try {
    storage.setItem(CHAT + chat.id, JSON.stringify(chat));
    return true;
  } catch {
    return false;
  }
}

export function removeChat(id) {
  storage.removeItem(CHAT + id);
}

/** Calls back with the id of a chat that another tab changed or removed. */
export function onOtherTab(callback) {
  addEventListener("storage", ({ key }) => {
    if (key?.startsWith(CHAT)) callback(key.slice(CHAT.length));
  });
}

/** Only what the person changed; everything else is the server's default. */
export function loadSettings() {
  try {
    return JSON.parse(storage.getItem(SETTINGS)) ?? {};
  } catch {
    return {};
  }
}

export function saveSettings(settings) {
  try {
    storage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // no room: the settings hold until the page is closed
  }
}

/** The API key lives as long as the tab: a shared machine should not keep it. */
export function loadKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export function saveKey(key) {
  try {
    sessionStorage.setItem(KEY, key.trim());
  } catch {
    // blocked: the server will go on asking for it
  }
}

export function loadTheme() {
  return storage.getItem(THEME) ?? "auto";
}

export function saveTheme(theme) {
  if (theme === "auto") storage.removeItem(THEME);
  else storage.setItem(THEME, theme);
}

/** What is sent: each question with its answer, then the last question. Failed turns are left out. */
export function promptOf(messages, system) {
  const sent = system?.trim() ? [{ role: "system", content: system.trim() }] : [];
  const ids = [];
  messages.forEach((message, n) => {
    const answer = messages[n + 1];
    if (message.role !== "user" || (answer && !hasContent(answer))) return;
    sent.push({ role: "user", content: message.text });
    ids.push(message.id);
    if (!answer) return;
    sent.push({ role: "assistant", content: contentOf(answer) });
    ids.push(answer.id);
  });
  return { messages: sent, ids };
}

function hasContent(answer) {
  return answer.parts.some((part) => part.text.trim());
}

/** Plain text where no tool was used, else the parts as the model wrote them. */
function contentOf(answer) {
  return answer.parts.every((part) => part.type === "text") ? textOf(answer) : answer.parts;
}

export function textOf(message) {
  if (message.role === "user") return message.text;
  return message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

/** A chat as a Markdown document, calculator calls included. */
export function chatToMarkdown(chat) {
  const turns = chat.messages.map((message) => {
    if (message.role === "user") return `**You**\n\n${message.text}`;
    const parts = message.parts.map(
      ({ type, text }) =>
        ({ text, python: `\`${text}\``, python_output: ` = \`${text}\`\n\n` })[type],
    );
    return `**nanochat**\n\n${parts.join("")}${sourcesToMarkdown(message.sources)}`;
  });
  return [`# ${chat.title}`, ...turns].join("\n\n") + "\n";
}

function sourcesToMarkdown(sources) {
  if (!sources?.length) return "";
  const lines = sources.map(({ id, title, url }) => `- [${id}] ${title}${url ? ` <${url}>` : ""}`);
  return `\n\nSources:\n\n${lines.join("\n")}`;
}
