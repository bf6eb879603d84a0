// The exercises: a list, a task, an editor, checks by the server, hints one by one.
// What is solved and what was written stay in this browser (localStorage), nowhere else.
import { $, h } from "/shared/dom.js";
import { renderMarkdown } from "/shared/markdown.js";
import { ask } from "./start.js";

const LEVELS = ["", "easy", "middle", "hard"];
let all = [];

const read = (name) => JSON.parse(localStorage.getItem(`exercise.${name}`) ?? "{}");
const keep = (name, more) =>
  localStorage.setItem(`exercise.${name}`, JSON.stringify({ ...read(name), ...more }));

export async function startExercises(status) {
  all = await (await ask("/exercises")).json();
  list();
  if (all.length) open(all[0], status, false);
}

function list(current) {
  const rows = all.map((exercise) => {
    const mark = read(exercise.id).solved ? "✓" : "○";
    const label = `${exercise.title}, ${LEVELS[exercise.level]}${mark === "✓" ? ", solved" : ""}`;
    const button = h("button", { type: "button", onclick: () => open(exercise), "aria-label": label },
      h("span", { "aria-hidden": "true" }, mark), exercise.title);
    if (exercise.id === current) button.setAttribute("aria-current", "true");
    return h("li", {}, button);
  });
  $("exercise-list").replaceChildren(...rows);
}

function open(exercise) {
  list(exercise.id);
  const editor = h("textarea.code", { rows: 14, spellcheck: false, value: read(exercise.id).code ?? exercise.start });
  editor.setAttribute("aria-label", "Your program");
  editor.addEventListener("input", () => keep(exercise.id, { code: editor.value }));
  const result = h("div", { role: "status" });
  const hints = h("ol");
  const hint = h("button.plain", { type: "button" }, "Hint");
  hint.addEventListener("click", () => {
    const next = exercise.hints[hints.children.length];
    if (next) hints.append(h("li", {}, ...renderMarkdown(next)));
    hint.disabled = hints.children.length === exercise.hints.length;
  });
  const check = h("button.primary", { type: "button" }, "Check");
  check.addEventListener("click", () => grade(exercise, editor, result, check));
  const solve = h("button.plain", { type: "button" }, "Show a solution");
  solve.addEventListener("click", async () => {
    const { solution } = await (await ask(`/exercises/${exercise.id}/solution`)).json();
    result.replaceChildren(h("pre", { tabIndex: 0 }, h("code", {}, solution)));
  });
  const again = h("button.plain", { type: "button" }, "Start again");
  again.addEventListener("click", () => {
    editor.value = exercise.start;
    keep(exercise.id, { code: exercise.start });
  });
  const notes = exercise.concepts.join(", ");
  $("exercise").replaceChildren(
    h("h3", {}, exercise.title), h("p.lead", {}, `${LEVELS[exercise.level]}; about ${notes}`),
    h("div", {}, ...renderMarkdown(exercise.task)), editor,
    h("div.row", {}, check, hint, again, solve), hints, result);
}

async function grade(exercise, editor, result, button) {
  button.disabled = true;
  result.textContent = "Checking …";
  try {
    const body = { code: editor.value };
    const told = await (await ask(`/exercises/${exercise.id}/check`, { method: "POST", body })).json();
    const rows = told.checks.map((one) => h(one.ok ? "li.ok" : "li", {}, one.message));
    const head = told.passed ? "Solved." : "Not yet.";
    if (told.passed) keep(exercise.id, { solved: true });
    result.replaceChildren(h("p", {}, h("strong", {}, head)), h("ul.checks", {}, ...rows));
    if (told.stdout || told.stderr) result.append(h("pre.output", { tabIndex: 0, role: "region", "aria-label": "Output" }, told.stdout + told.stderr));
    list(exercise.id);
  } catch (error) {
    result.textContent = error.message;
  } finally {
    button.disabled = false;
  }
}
