// The start page: the token, the sections, and one way to ask the bridge for things.
// Read: token -> ask -> show. The forms are in trace_form.js, run_form.js, exercises.js, routes.js.
import { $, h } from "/shared/dom.js";
import { startExercises } from "./exercises.js";
import { startRoutes } from "./routes.js";
import { startRun } from "./run_form.js";
import { startTrace } from "./trace_form.js";

const SECTIONS = { trace: "Trace", run: "Run code", exercises: "Exercises", api: "API" };

/** The token comes in the address's fragment once, stays in this tab, and leaves the address. */
function token() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) {
    sessionStorage.setItem("token", found);
    history.replaceState(null, "", location.pathname + "#trace");
  }
  return sessionStorage.getItem("token") ?? "";
}

export class Refusal extends Error {}

/** fetch with the token; a refusal becomes an error that carries the server's sentence. */
export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem("token") ?? ""}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("the bridge does not answer: is it still running?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Refusal(told.error?.message ?? `the bridge answered ${response.status}`);
}

/** Lines of JSON as they arrive. */
export async function* eventsOf(response) {
  let rest = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

function show() {
  const wanted = location.hash.slice(1);
  const name = wanted in SECTIONS ? wanted : "trace";
  for (const id of Object.keys(SECTIONS)) $(id).hidden = id !== name;
  for (const link of document.querySelectorAll("nav a[data-section]")) {
    if (link.dataset.section === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function start() {
  const links = Object.entries(SECTIONS).map(([id, title]) => {
    const link = h("a", { href: `#${id}` }, title);
    link.dataset.section = id;
    return link;
  });
  $("tabs").append(...links, h("a", { href: "/guide" }, "Guide"));
  addEventListener("hashchange", show);
  token();
  show();
  try {
    const status = await (await ask("/status")).json();
    startTrace(status);
    startRun(status);
    await startExercises(status);
    await startRoutes();
  } catch (error) {
    $("problem").textContent = error.message;
    $("problem").hidden = false;
  }
  document.body.dataset.ready = "yes";
}

start();
