/* The frame around the sections: where we are, theme, keys, which weights, and the parity badge.

   Read: sections -> live -> Stepper -> startKeys -> startBadge. */
"use strict";

/** live("attention", ["word"], draw): draws now or when the section comes into view, and again
    whenever one of the state values changes. Sections out of sight cost nothing. */
const live = (() => {
  const drawings = new Map(); // section element -> [{draw, stale}]
  const visible = new Set();
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) visible.delete(target);
        else {
          visible.add(target);
          drawings.get(target).forEach(catchUp);
        }
      }
    },
    { rootMargin: "-64px 0px -32px" }, // a section's first and last strip is only air
  );
  addEventListener("beforeprint", () => [...drawings.values()].flat().forEach(catchUp));

  function catchUp(drawing) {
    if (drawing.stale) {
      drawing.stale = false;
      drawing.draw();
    }
  }

  return (id, keys, draw) => {
    const section = document.getElementById(id);
    const drawing = { draw, stale: false };
    if (!drawings.has(section)) {
      drawings.set(section, []);
      watcher.observe(section);
    }
    drawings.get(section).push(drawing);
    const change = () => {
      drawing.stale = true;
      if (visible.has(section)) catchUp(drawing);
    };
    state.on(keys, change);
    draw();
    return change;
  };
})();

const steppers = {};

/** Back, play, forward and a scrub bar over state[key] from 0 to last(). */
class Stepper {
  constructor(host, section, key, last, { delay = 900, name = "step", from = 0 } = {}) {
    Object.assign(this, { key, last, delay, from, timer: 0 });
    this.bar = el("input", {
      type: "range",
      min: 0,
      step: 1,
      "aria-label": `${name}, scrub`,
      oninput: () => {
        this.stop();
        this.go(Number(this.bar.value));
      },
    });
    this.playButton = el("button.play", { type: "button", onclick: () => this.toggle() }, "▶ Play");
    this.where = el("output.where");
    host.append(
      el(
        "button",
        { type: "button", "aria-label": `previous ${name}`, onclick: () => this.by(-1) },
        "←",
      ),
      this.playButton,
      el(
        "button",
        { type: "button", "aria-label": `next ${name}`, onclick: () => this.by(1) },
        "→",
      ),
      this.bar,
      this.where,
    );
    steppers[section] = this;
    state.on([key], () => this.sync());
    this.sync();
  }

  get now() {
    return Math.min(state.values[this.key], this.last());
  }
  go(to) {
    state.set({ [this.key]: Math.max(0, Math.min(this.last(), to)) });
  }
  by(delta) {
    this.stop();
    this.go(this.now + delta);
  }

  sync() {
    this.bar.max = this.last();
    this.bar.value = this.now;
    this.where.textContent = `${this.now + this.from} of ${this.last() + this.from}`;
  }

  toggle() {
    if (this.timer) {
      this.stop();
      return;
    }
    if (this.now >= this.last()) this.go(0);
    this.playButton.textContent = "❚❚ Pause";
    const tick = () => {
      this.go(this.now + 1);
      if (this.now >= this.last()) this.stop();
      else this.timer = setTimeout(tick, this.delay);
    };
    this.timer = setTimeout(tick, this.delay / 3);
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.playButton.textContent = "▶ Play";
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("microgpt-guide-theme", theme);
  } catch {
    /* private window */
  }
  $("#theme-button").textContent = theme === "dark" ? "☀ Light" : "☾ Dark";
  state.tell(["model", "theme"]); // canvases hold colours, so they draw again
}

function toggleTheme() {
  setTheme(themeName() === "dark" ? "light" : "dark");
}

function sectionIds() {
  return $$("#side-list a").map((a) => a.hash.slice(1));
}

function goTo(id) {
  $(`#${id}`)?.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
}

/** Marks the section in view in the list, and keeps it in the address. */
function startScrollSpy() {
  const links = new Map($$("#side-list a").map((a) => [a.hash.slice(1), a]));
  const here = () => {
    const line = innerHeight * 0.35;
    const ids = sectionIds();
    const at = ids.filter((id) => $(`#${id}`).getBoundingClientRect().top <= line).pop() || "";
    if (at === state.section && startScrollSpy.ran) return;
    startScrollSpy.ran = true;
    state.section = at;
    for (const [id, link] of links) {
      if (id === at) {
        link.setAttribute("aria-current", "true");
        const list = link.closest("ol");
        list.scrollLeft = link.offsetLeft - list.clientWidth / 2 + link.clientWidth / 2;
      } else link.removeAttribute("aria-current");
    }
    state.writeAddress();
  };
  addEventListener("scroll", perFrame(here), { passive: true });
  for (const [id, link] of links) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      goTo(id);
      const title = $(`#${id}-title`);
      title.tabIndex = -1;
      title.focus({ preventScroll: true });
    });
  }
  here();
}

/** Single keys act on the section in view, unless a control wants the key itself. */
function startKeys() {
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
    if (target.closest("input:not([type=range]), select, textarea, [contenteditable]")) return;
    const onControl = target.closest("button, a, summary, input");
    const stepper = steppers[state.section];
    const actions = {
      "?": () => $("#help").showModal(),
      t: toggleTheme,
      c: () => codePanels[state.section]?.toggle(codePanels[state.section].body.hidden),
      ArrowRight: target.closest("input") ? null : stepper && (() => stepper.by(1)),
      ArrowLeft: target.closest("input") ? null : stepper && (() => stepper.by(-1)),
      Enter: onControl ? null : enterActions[state.section],
      " ": onControl ? null : stepper?.toggle && (() => stepper.toggle()),
    };
    if (/^[1-7]$/.test(key)) actions[key] = () => goTo(sectionIds()[Number(key) - 1]);
    if (!actions[key]) return;
    event.preventDefault();
    actions[key]();
  });
}

/** section -> what Enter does there; sections 6 and 7 register themselves. */
const enterActions = {};

function startWeightsSwitch() {
  const side = $("#side .weights-switch");
  for (const host of $$(".weights-here")) {
    // on small screens the side has no room for it
    host.append(...[...side.children].map((node) => node.cloneNode(true)));
  }
  for (const group of [side, ...$$(".weights-here")]) choice(group, "model");
  const sync = () => {
    for (const button of $$('[data-value="mine"]')) button.disabled = !models.mine;
    $("#weights-note").textContent = models.label();
  };
  state.on(["model", "steps"], sync);
  sync();
}

/** "Verify": repeats Python's 1,000 steps in a worker and compares every loss and every name. */
function startBadge() {
  const [button, bar] = [$("#verify"), $("#verify-progress")];
  button.addEventListener("click", () => {
    button.disabled = true;
    bar.hidden = false;
    $("#badge-title").textContent = "Checking …";
    training.verify((answer) => {
      if (answer.type === "progress") {
        bar.value = answer.fraction;
        return;
      }
      bar.hidden = true;
      button.disabled = false;
      button.textContent = "Verify again";
      showVerdict(answer.report, answer.seconds);
    });
  });
}

function showVerdict(report, seconds) {
  const badge = $("#badge");
  badge.dataset.verdict = report.equal ? "equal" : "different";
  badge.dataset.report = JSON.stringify({ ...report, seconds });
  $("#badge-title").textContent = report.equal ? "✓ Equal to Python" : "✗ Not equal to Python";
  $("#badge-text").textContent =
    `${commas(report.steps)} training steps repeated in ` +
    `${fmt(seconds, 1)} s: the largest difference in any loss is ${fmt(report.maxLossGap, 12)}, ` +
    `${fmt(report.maxValueGap, 12)} with Values in the first ${report.valueSteps}; ` +
    `${report.namesEqual} of ${Python.run.samples.length} invented names are the same.`;
}
