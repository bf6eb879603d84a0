// The trace form: a prompt goes out, a picture and a table of the same numbers come back.
import { $, h } from "/shared/dom.js";
import { ask } from "./start.js";

const HOOKS = ["x0", "*.attn.pattern", "*.resid_mid", "*.resid_post", "final_norm", "logits"];
let current = null;

export function startTrace(status) {
  const model = status.model;
  if (!model) {
    $("trace-status").textContent = status.model_problem;
    $("trace-form").querySelector("button").disabled = true;
    return;
  }
  $("trace-status").textContent =
    "Press Trace to see which token looks at which, how the numbers grow, and what may come next.";
  fill($("layer"), model.layers);
  fill($("head"), model.heads);
  $("trace-form").addEventListener("submit", (event) => {
    event.preventDefault();
    makeTrace();
  });
  for (const id of ["layer", "head"]) $(id).addEventListener("change", () => current && draw());
}

function fill(select, count) {
  for (let i = 0; i < count; i += 1) select.append(h("option", { value: i }, String(i)));
}

async function makeTrace() {
  const button = $("trace-form").querySelector("button");
  button.disabled = true;
  $("trace-status").textContent = "The model reads …";
  try {
    if (current) ask(`/trace/${current.trace_id}`, { method: "DELETE" }).catch(() => {});
    const body = { prompt: $("prompt").value, hooks: HOOKS, max_new_tokens: Number($("new-tokens").value) || 0 };
    current = await (await ask("/trace", { method: "POST", body })).json();
    const { manifest, tokens, warnings } = current;
    const kilobytes = Math.ceil(manifest.payload.bytes / 1000);
    const said = `${tokens.length} tokens, ${manifest.tensors.length} tensors, ${kilobytes} kB.`;
    $("trace-status").textContent = [said, ...warnings].join(" ");
    await draw();
  } catch (error) {
    current = null;
    $("picture").hidden = true;
    $("trace-table").replaceChildren();
    $("trace-status").textContent = error.message;
  } finally {
    button.disabled = false;
  }
}

/** An <img> cannot send the token, so the picture is fetched and shown from memory. */
async function draw() {
  const where = `/trace/${current.trace_id}.svg?layer=${$("layer").value}&head=${$("head").value}`;
  const picture = await (await ask(where)).blob();
  const old = $("picture").querySelector("img");
  if (old) URL.revokeObjectURL(old.src);
  const alt = `Attention of layer ${$("layer").value}, head ${$("head").value}; the table below has the numbers`;
  $("picture").replaceChildren(h("img", { src: URL.createObjectURL(picture), alt }));
  $("picture").hidden = false;
  table();
}

function table() {
  const head = h("tr", {}, ...["Next token", "Chance"].map((word) => h("th", { scope: "col" }, word)));
  const last = current.next_tokens.at(-1).map((piece) =>
    h("tr", {}, h("td", {}, h("code", {}, JSON.stringify(piece.text))),
      h("td.number", {}, percent(piece.chance))));
  const words = current.tokens.map((piece) => piece.text).filter((text) => !/^<\|\w+\|>$/.test(text));
  const text = words.join("");
  const shown = text.length > 60 ? `… ${text.slice(-60)}` : text;
  const columns = ["Activation", "Shape", "Mean", "RMS", "Least", "Most", "Source"];
  const top = h("tr", {}, ...columns.map((word) => h("th", { scope: "col" }, word)));
  const rows = current.manifest.tensors.filter((entry) => entry.step === 0).map(row);
  $("trace-table").replaceChildren(
    h("table.chances", {}, h("caption", {}, `What may follow “${shown}”`), h("thead", {}, head), h("tbody", {}, ...last)),
    h("details", {}, h("summary", {}, "Every activation of the prompt"),
      h("div.scroll", { role: "region", tabIndex: 0, "aria-label": "Activations" }, h("table", {}, h("caption", {}, "Statistics of the whole tensors"),
        h("thead", {}, top), h("tbody", {}, ...rows)))),
  );
}

const percent = (chance) => (chance < 0.0005 ? "under 0.1 %" : `${(100 * chance).toFixed(1)} %`);

function row({ name, shape, axes, stats, source }) {
  const sizes = shape.map((size, i) => `${axes[i]} ${size}`).join(" × ");
  const numbers = ["mean", "rms", "min", "max"].map((key) => h("td.number", {}, stats[key].toPrecision(3)));
  return h("tr", {}, h("td", {}, h("code", {}, name)), h("td", {}, sizes), ...numbers,
    h("td", {}, h("code", {}, `${source.file}:${source.line}`)));
}
