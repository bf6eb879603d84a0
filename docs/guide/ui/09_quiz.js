/* Predict, then look: a question before each experiment, scored in this browser only.

   The right answer is computed from the model or the data on this page, never written down. Each
   question: ask, answer() -> the right option or number, options() or a slider, why(). */
"use strict";

const quiz = {
  storageKey: "microgpt-guide-predictions",
  done: {}, // id -> true (right) or false

  load() {
    try {
      const kept = JSON.parse(localStorage.getItem(this.storageKey));
      for (const id of Object.keys(QUESTIONS)) {
        if (typeof kept?.[id] === "boolean") this.done[id] = kept[id];
      }
    } catch {
      /* none */
    }
  },
  save() {
    try {
      localStorage.setItem(this.storageKey, JSON.stringify(this.done));
    } catch {
      /* private */
    }
  },
  record(id, right) {
    if (!(id in this.done)) this.done[id] = right; // the first answer counts
    this.save();
    this.showScore();
  },
  showScore() {
    const answered = Object.values(this.done);
    const right = answered.filter(Boolean).length;
    const all = Object.keys(QUESTIONS).length;
    $("#score").textContent = answered.length
      ? `${right} of ${answered.length} predictions right, ${all - answered.length} left`
      : `${all} predictions to make`;
  },
};

/** Builds every question into its place: <div class="quiz" data-quiz="id">. */
function startQuizzes() {
  quiz.load();
  for (const host of $$(".quiz")) new Question(host, QUESTIONS[host.dataset.quiz]);
  quiz.showScore();
}

class Question {
  constructor(host, { ask, options, range, answer, why }) {
    Object.assign(this, { host, options, range, answer, why });
    this.verdict = el("p.verdict", { role: "status" });
    const name = `quiz-${host.dataset.quiz}`;
    this.form = el(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          this.reveal();
        },
      },
      el(
        "fieldset",
        {},
        el("legend", {}, el("span.quiz-mark", {}, "Predict first"), ask),
        range ? this.dial(name) : this.radios(name),
      ),
      this.verdict,
    );
    host.replaceChildren(this.form);
  }

  radios(name) {
    return el(
      "div.quiz-options",
      {},
      this.options().map((option, i) =>
        el(
          "label",
          {},
          el("input", { type: "radio", name, value: String(i), required: true }),
          el("span", {}, option),
        ),
      ),
      el("button", { type: "submit" }, "Reveal"),
    );
  }

  dial(name) {
    const { low, high, step, unit = "" } = this.range;
    const out = el("output", {}, "?");
    const input = el("input", {
      type: "range",
      name,
      min: low,
      max: high,
      step,
      value: (low + high) / 2,
      "aria-label": "your prediction",
      oninput: () => {
        out.textContent = `${input.value}${unit}`;
      },
    });
    return el("div.quiz-dial", {}, input, out, el("button", { type: "submit" }, "Reveal"));
  }

  reveal() {
    const field = new FormData(this.form).get(`quiz-${this.host.dataset.quiz}`);
    const truth = this.answer();
    const right = this.range
      ? Math.abs(Number(field) - truth) <= this.range.close
      : this.options()[Number(field)] === truth;
    const shown = this.range
      ? `${fmt(truth, this.range.digits ?? 0)}${this.range.unit || ""}`
      : truth;
    this.verdict.className = `verdict ${right ? "right" : "wrong"}`;
    const lead = right ? `✓ Right: ${shown}. ` : `✗ It is ${shown}. `;
    this.verdict.replaceChildren(el("strong", {}, lead), this.why());
    quiz.record(this.host.dataset.quiz, right);
  }
}
