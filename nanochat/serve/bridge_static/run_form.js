// Run a program: in the browser's own Python when that is enough, else in the machine's sandbox.
// Read: startRun -> choose -> runHere (browser_python.js) / runThere (POST /run, streamed).
import { $, h } from "/shared/dom.js";
import { runInBrowser } from "./browser_python.js";
import { ask, eventsOf } from "./start.js";

const EXAMPLE = `scores = [2.0, 1.0, 0.1]
import math
top = max(scores)
weights = [math.exp(s - top) for s in scores]
print([round(w / sum(weights), 3) for w in weights])
`;
// What the browser's Python does not have; such a program goes to the machine's sandbox.
const NEEDS_MACHINE = /^\s*(?:import|from)\s+(numpy|matplotlib|torch|subprocess|socket|multiprocessing)\b/m;
const ENDINGS = {
  finished: "It finished", failed: "It failed", killed: "A signal or its memory limit ended it",
  "timed out": "Its time ran out, so it was ended", "too much output": "It wrote too much, so it was ended",
  cancelled: "It was stopped",
};
let stop = null;

export function startRun(status) {
  const places = { auto: "wherever it fits", browser: "in this browser", machine: "on this machine" };
  $("code").value = EXAMPLE;
  for (const [value, title] of Object.entries(places)) $("where").append(h("option", { value }, title));
  const here = status.browser_python ? "pure Python runs inside this page" : status.browser_python_problem;
  const there = status.sandbox ? `the rest in the ${status.sandbox} sandbox of this machine` : status.sandbox_problem;
  $("run-lead").textContent = `Nothing you write here can harm your computer: ${here}; ${there}.`;
  $("run-form").addEventListener("submit", (event) => {
    event.preventDefault();
    start(status);
  });
  $("stop").addEventListener("click", () => stop?.abort());
}

export function choose(wish, code, status) {
  if (wish !== "auto") return wish;
  const here = status.browser_python && !(status.sandbox && NEEDS_MACHINE.test(code));
  return here ? "browser" : "machine";
}

async function start(status) {
  const output = $("output"), code = $("code").value;
  const where = choose($("where").value, code, status);
  output.replaceChildren();
  $("pictures").replaceChildren();
  $("run-status").textContent = where === "browser" ? "Running in this browser …" : "Running on this machine …";
  $("run-form").querySelector("button").disabled = true;
  $("stop").disabled = false;
  stop = new AbortController();
  const write = (stream, text) => { // pieces of one stream go on in the same place
    const kind = stream === "stderr" ? "err" : "";
    if (output.lastChild?.className === kind) output.lastChild.append(text);
    else output.append(h(kind ? "span.err" : "span", {}, text));
  };
  const missing = where === "browser" && NEEDS_MACHINE.exec(code);
  if (missing) write("stderr", `The browser's Python has no ${missing[1]}: choose “on this machine”.\n`);
  try {
    const run = where === "browser" ? runInBrowser : runThere;
    $("run-status").textContent = await run(code, write, stop.signal);
  } catch (error) {
    $("run-status").textContent = error.name === "AbortError" ? "Stopped." : error.message;
  } finally {
    $("run-form").querySelector("button").disabled = false;
    $("stop").disabled = true;
  }
}

async function runThere(code, write, signal) {
  const response = await ask("/run", { method: "POST", body: { code, stream: true }, signal });
  for await (const event of eventsOf(response)) {
    if (event.event === "output") write(event.stream, event.text);
    if (event.event === "error") return event.error.message;
    if (event.event === "end") {
      const { ended, exit_code, seconds, memory_bytes, tier, pictures } = event.outcome;
      for (const data of pictures) {
        $("pictures").append(h("img", { src: `data:image/png;base64,${data}`, alt: "A picture the program made" }));
      }
      const exit = exit_code === null ? "" : ` with exit code ${exit_code}`;
      return `${ENDINGS[ended]}${exit} after ${seconds.toFixed(2)} s and ${Math.round(memory_bytes / 1e6)} MB, in ${tier}.`;
    }
  }
  return "The bridge stopped in the middle.";
}
