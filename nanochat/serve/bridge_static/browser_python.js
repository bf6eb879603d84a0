// Python inside the page: Pyodide in a worker in a frame that belongs to no origin.
// The frame (/box) may load files from /pyodide/ and nothing else: no token, no storage, no network.
// A program that does not end dies with its frame. Called by run_form.js and exercises.js.
import { h } from "/shared/dom.js";

const LOAD_MS = 60_000; // the first program waits for 14 MB from this machine's own disk
const RUN_MS = 10_000;
const OUTPUT = 200_000; // characters

export function runInBrowser(code, write, signal) {
  const frame = h("iframe", { className: "box", src: "/box", sandbox: "allow-scripts", title: "Python" });
  const started = performance.now();
  let written = 0;
  return new Promise((resolve, reject) => {
    let clock = setTimeout(() => end("Python did not start in time."), LOAD_MS);
    const end = (sentence, error) => {
      clearTimeout(clock);
      removeEventListener("message", hear);
      frame.remove(); // and the worker with it
      if (error) reject(error);
      else resolve(sentence);
    };
    const hear = ({ source, data }) => {
      if (source !== frame.contentWindow || typeof data !== "object" || data === null) return;
      if (data.kind === "open") frame.contentWindow.postMessage({ code }, "*");
      if (data.kind === "begin") {
        clearTimeout(clock);
        clock = setTimeout(() => end(`It was stopped after ${RUN_MS / 1000} s.`), RUN_MS);
      }
      if (data.kind === "output") {
        const text = String(data.text);
        written += text.length;
        if (written > OUTPUT) end("It was stopped: too much output.");
        else write(data.stream === "stderr" ? "stderr" : "stdout", text);
      }
      if (data.kind === "end") {
        const seconds = ((performance.now() - started) / 1000).toFixed(2);
        end(`It ${data.ok === true ? "finished" : "failed"} after ${seconds} s, in this browser.`);
      }
      if (data.kind === "broken") end(`Python could not start here: ${String(data.text).slice(0, 300)}`);
    };
    signal?.addEventListener("abort", () => end("", new DOMException("stopped", "AbortError")));
    addEventListener("message", hear);
    document.body.append(frame);
  });
}
