/* Section 1: names, tokens, the vocabulary. Read: showNames -> showTiles -> showVocabulary. */
"use strict";

let namesFrom = 0;

function showNames() {
  const shown = Python.first.slice(namesFrom, namesFrom + 10);
  renew(
    $("#names"),
    shown.map((name) =>
      el(
        "button.chip",
        {
          type: "button",
          onclick: () => state.set({ word: name, pos: 1, key: 0 }),
          "aria-pressed": String(name === state.values.word),
        },
        name,
      ),
    ),
  );
  $("#names-note").textContent =
    `${namesFrom + 1}–${namesFrom + shown.length} of ` +
    `${commas(Python.count)}, shuffled with seed ${CONFIG.seed}`;
  $("#names-before").disabled = namesFrom === 0;
  $("#names-after").disabled = namesFrom + 10 >= Python.first.length;
}

/** What is typed, token by token; letters without a number are marked in place. */
function showTiles() {
  const { word } = state.values;
  const ids = [BOS, ...Array.from(word, (ch) => LETTERS.indexOf(ch)), BOS];
  const most = CONFIG.context; // BOS and 15 letters are read; the last BOS is only predicted
  renew(
    $("#token-tiles"),
    ids.map((id, i) => {
      const last = i === ids.length - 1;
      if (id < 0) {
        return el(
          "div.tile.unknown",
          {},
          el("span.tile-text", {}, Array.from(word)[i - 1]),
          el("span.tile-id", {}, "none"),
        );
      }
      return tile(id, { class: !last && i >= most ? "over" : "" });
    }),
  );
  const note = $("#token-note");
  const why = whyNotReadable(word);
  if (why) note.textContent = why;
  else if (!word)
    note.textContent =
      "Nothing typed: BOS follows BOS. Even that is something the model can read, and be " +
      "surprised by.";
  else {
    note.replaceChildren(
      "In Python: ",
      el("code", {}, `[${ids.join(", ")}]`),
      `. ${ids.length} tokens, so ${ids.length - 1} times the question “what comes next?”`,
    );
  }
}

/** How often each token follows another in these names. */
function countTokens(names) {
  const counts = new Float64Array(CONFIG.vocabulary);
  for (const name of names) for (const id of tokenize(name).slice(1)) counts[id]++;
  const total = counts.reduce((a, b) => a + b);
  return counts.map((n) => n / total);
}

async function showVocabulary() {
  const host = $("#vocabulary");
  let shares = countTokens(Python.first);
  let basis = `the first ${Python.first.length} names`;
  const draw = () => {
    const used = new Set(tokenize(state.values.word));
    const top = Math.max(...shares);
    renew(
      host,
      Array.from(shares, (share, id) =>
        el(
          "div.vocab-item",
          { class: `vocab-item ${used.has(id) ? "used" : ""}` },
          el(
            "div.vocab-bar-area",
            {},
            el("div.vocab-bar", { style: { height: `${(share / top) * 100}%` } }),
          ),
          tile(id),
        ),
      ),
    );
  };
  const refresh = tableTwin($("#vocabulary-table"), () =>
    table(
      `Share of each token in ${basis}`,
      ["token", "number", "share"],
      Array.from(shares, (share, id) => [tokenText(id), id, percent(share)]),
    ),
  );
  live("tokens", ["word"], draw);
  try {
    const names = await Python.names();
    shares = countTokens(names);
    basis = `all ${commas(names.length)} names`;
    draw();
    refresh();
  } catch {
    /* the first names do; the notice at the top says what is missing */
  }
}

function startTokens() {
  $("#names-before").onclick = () => {
    namesFrom -= 10;
    showNames();
  };
  $("#names-after").onclick = () => {
    namesFrom += 10;
    showNames();
  };
  state.on(["word"], showNames);
  showNames();
  live("tokens", ["word"], showTiles);
  showVocabulary();
}
