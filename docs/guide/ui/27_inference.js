/* Section 7: a name typed token by token, the chances behind each, and more names.

   Read: drawnName -> showTyped -> showToken -> showTwenty. */
"use strict";

const inference = {
  timer: 0,
  refreshTable: () => {},
  names: new Set(Python.first),
  bars: new ChanceBars(),
};

/** The name in view: its seed, temperature and weights decide it, so it can be made again. */
function drawnName() {
  return generate(models.current, new PythonRandom(state.values.draw), state.values.temp);
}

/** 27 bars as one line each of a path: a path costs the browser what a single bar would. */
function miniBars(probs, chosen) {
  const top = Math.max(...probs);
  const bar = (i) => `M${i + 0.5} 14V${fixed(14 - (probs[i] / top) * 14)}`;
  const others = Array.from(probs, (_, i) => (i === chosen ? "" : bar(i))).join("");
  return svg(
    "svg.mini-bars",
    { viewBox: "0 0 27 14", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { d: others }),
    svg("path.chosen", { d: bar(chosen) }),
  );
}

const fixed = (x) => String(Math.round(x * 100) / 100);

/** Types the name; `at once` when motion is unwanted or only the chances changed. */
function showTyped(atOnce) {
  clearTimeout(inference.timer);
  const picks = drawnName();
  inference.picks = picks;
  $("#draw-seed").textContent = `seed ${state.values.draw}, ${models.label()}`;
  const host = $("#typed");
  const start = tile(BOS, { class: "given" });
  const finish = () => {
    noteName(picks);
    showToken();
  };
  if (atOnce || calm.matches) {
    renew(host, start, picks.map(typedToken));
    finish();
    return;
  }
  host.replaceChildren(start);
  let i = 0;
  const type = () => {
    host.append(typedToken(picks[i], i++));
    if (i < picks.length) inference.timer = setTimeout(type, 170);
    else finish();
  };
  type();
}

function typedToken({ token, probs }, i) {
  return el(
    "button.typed-token",
    {
      type: "button",
      "aria-pressed": "false",
      "aria-label": `${tokenText(token)}, drawn with chance ${percent(probs[token])}`,
      onclick: () => state.set({ seen: i }),
    },
    tile(token),
    miniBars(probs, token),
    el("span.typed-chance", {}, percent(probs[token])),
  );
}

function noteName(picks) {
  const word = wordOf(picks);
  const full = picks[picks.length - 1].token !== BOS;
  const known = inference.names.has(word);
  $("#typed-note").textContent =
    `“${word}”${word ? "" : " (an empty name: BOS came first)"}: ` +
    `${known ? "this name is in the dataset" : "not in the dataset; the model made it up"}.` +
    `${full ? " It stopped because its 16 positions are full." : ""} Press a token to see all ` +
    `27 chances behind it.`;
}

/** All 27 chances behind one token, and how the draw fell on it. */
function showToken() {
  const { picks } = inference;
  const i = state.values.seen < 0 ? 0 : Math.min(state.values.seen, picks.length - 1);
  const { token, draw, probs } = picks[i];
  $$("#typed .typed-token").forEach((b, k) => b.setAttribute("aria-pressed", String(k === i)));
  const before = picks
    .slice(0, i)
    .map((p) => LETTERS[p.token])
    .join("");
  const low = probs.slice(0, token).reduce((a, b) => a + b, 0);
  $("#token-title").textContent =
    `After ${before ? `“${before}”` : "BOS"}, at temperature ${fmt(state.values.temp, 1)}`;
  inference.bars.show(probs, { chosen: token });
  renew(
    $("#token-draw"),
    el(
      "div.wheel",
      { "aria-hidden": "true" },
      Array.from(probs, (p, k) =>
        el(
          "div",
          {
            class: k === token ? "chosen" : k % 2 ? "odd" : "",
            style: { flex: Math.max(1e-6, p) },
          },
          p > 0.04 ? TOKEN_NAMES[k] : "",
        ),
      ),
      el("i", { style: { left: `${draw * 100}%` } }),
    ),
    el(
      "p",
      {},
      `Laid end to end, the chances fill a line from 0 to 1. The random number was `,
      el("strong", {}, fmt(draw, 4)),
      `, and ${tokenText(token)} covers ${fmt(low, 4)} to ` + `${fmt(low + probs[token], 4)}.`,
    ),
  );
  inference.refreshTable();
}

let twentyRun = 0;

/** Twenty names from one generator, a few each frame so that the page stays smooth. */
function showTwenty() {
  const run = ++twentyRun;
  const rng = new PythonRandom(state.values.draw);
  const host = $("#twenty");
  const made = [];
  const some = () => {
    if (run !== twentyRun) return;
    const until = performance.now() + 8;
    while (made.length < CONFIG.samples && performance.now() < until) {
      made.push(wordOf(generate(models.current, rng, state.values.temp)));
    }
    if (made.length < CONFIG.samples) {
      requestAnimationFrame(some);
      return;
    }
    renew(
      host,
      made.map((word) =>
        el(
          "span.chip",
          { class: inference.names.has(word) ? "chip known" : "chip" },
          word || "(empty)",
        ),
      ),
    );
    const known = made.filter((w) => inference.names.has(w)).length;
    $("#twenty-note").textContent =
      `${CONFIG.samples - known} of ${CONFIG.samples} are not in the dataset; ` +
      `${known} ${known === 1 ? "is" : "are"} (underlined).`;
  };
  setTimeout(() => requestAnimationFrame(some), 60); // after the name above is on the screen
}

function showPythonNames() {
  $("#python-names").replaceChildren(
    ...Python.run.samples.map((word) =>
      el("span.chip", { class: inference.names.has(word) ? "chip known" : "chip" }, word),
    ),
  );
  $("#python-names-note").textContent =
    "Printed by microgpt.py after its last step, at temperature " +
    `${CONFIG.temperature}. “Verify” at the top makes them again in your browser.`;
}

function startInference() {
  const another = () => state.set({ draw: (state.values.draw % 9999) + 1, seen: -1 });
  $("#draw-again").onclick = another;
  $("#draw-replay").onclick = () => showTyped(false);
  enterActions.inference = another;
  slider($("#temperature"), "temp", (x) => fmt(x, 1));
  inference.refreshTable = tableTwin($("#token-table"), () => {
    const { probs } =
      inference.picks[Math.max(0, Math.min(state.values.seen, inference.picks.length - 1))];
    return table("All 27 chances", ["token", "share", "probability"], chanceRows(probs));
  });
  $("#token-title").after(inference.bars.node);
  live("inference", ["draw"], () => showTyped(false));
  live("inference", ["temp", "model"], () => showTyped(true));
  live("inference", ["seen"], () => {
    if (inference.picks) showToken();
  });
  live("inference", ["draw", "temp", "model"], showTwenty);
  showPythonNames();
  Python.names()
    .then((names) => {
      inference.names = new Set(names);
      showPythonNames();
      showTwenty();
      if (inference.picks) noteName(inference.picks);
    })
    .catch(() => {});
}
