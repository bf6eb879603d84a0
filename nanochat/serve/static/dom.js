// Small tools to build the page from nodes. Text always becomes a text node, never markup.
import { icon } from "./icons.js";

/** h("p.note", {id: "x", onclick: f}, "text", child): an element with its class, properties, children. */
export function h(what, props = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const $ = (id) => document.getElementById(id);

/** A button with a drawing; `label` is read aloud and shown as a tooltip. */
export function iconButton(name, label, onclick, props = {}) {
  return h("button.icon-button", { type: "button", title: label, "aria-label": label, onclick, ...props }, icon(name, 18));
}

/** A short note at the bottom; `action` is {label, run}, for example Undo. Returns how to remove it. */
export function toast(text, action) {
  const note = h("div.toast", {}, h("span", {}, text));
  const remove = () => note.remove();
  if (action) {
    const run = () => (remove(), action.run());
    note.append(h("button", { type: "button", onclick: run }, action.label));
  }
  $("toasts").replaceChildren(note);
  setTimeout(remove, action ? 8000 : 4000);
  return remove;
}

/** Say something to a screen reader only. */
export function announce(text) {
  $("announcer").textContent = text;
}

/** Copy text; plain http on another machine has no clipboard API, so there is a second way. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea.hidden", { value: text });
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

/** A copy button that turns into a tick for a moment. */
export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    const copied = await copyText(text());
    if (!copied) return toast("The browser does not allow copying here.");
    button.replaceChildren(icon("check", 18));
    announce("Copied");
    setTimeout(() => button.replaceChildren(icon("copy", 18)), 1500);
  });
  return button;
}

/** Hand the browser a file to save. */
export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
