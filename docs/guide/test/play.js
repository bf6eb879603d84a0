/* Everything a visitor can do, as a list a program can play: [name, () => do it].

   `nanochat guide-check` and tests/browser put this file into the page; the page does not hold it.
   guidePlay.play(section) does a section's list by itself, in any browser. For timings the program
   outside presses F9 instead, once for each thing on the list: a real key, of which the browser's
   own Event Timing says how long it took from its arrival to the picture that shows its effect on
   the screen, in steps of 8 ms. Read: the lists -> play -> lineUp -> took. */
"use strict";

(() => {
  const KEY = "F9";
  const SHORTEST_MS = 16; // below this Event Timing says nothing
  let line = []; // what the next presses of the key will do
  let pressed = 0; // when the last press came in
  const presented = new Map(); // when a press came in -> milliseconds until the picture
  const note = (entries) => entries.forEach((e) => presented.set(e.startTime, e.duration));
  const clock = new PerformanceObserver((list) => note(list.getEntries()));
  clock.observe({ type: "event", durationThreshold: SHORTEST_MS });
  addEventListener(
    "keydown",
    (event) => {
      if (event.key !== KEY) return;
      event.stopImmediatePropagation();
      pressed = event.timeStamp;
      line.shift()[1]();
    },
    true,
  );

  const find = (selector) => document.querySelector(selector);
  const press = (selector) => find(selector).click();
  const type = (selector, text) => {
    find(selector).value = text;
    find(selector).dispatchEvent(new Event("input", { bubbles: true }));
  };
  const key = (name, target = document.body) =>
    target.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  const point = (selector) => {
    const box = find(selector).getBoundingClientRect();
    find(selector).dispatchEvent(
      new PointerEvent("pointermove", {
        bubbles: true,
        clientX: box.left + box.width / 2,
        clientY: box.top + box.height / 2,
      }),
    );
  };
  const presets = ["addition", "multiplication", "twice", "relu", "softmax", "own"];

  window.guidePlay = {
    tokens: [
      ["ten more names", () => press("#names-after")],
      ["choose a name", () => press("#names .chip")],
      ["type a name", () => type("#tokens input", "maximiliana")],
      ["15 letters", () => type("#tokens input", "abcdefghijklmno")],
      ["unknown letters", () => type("#tokens input", "zoë 3")],
      ["too long", () => type("#tokens input", "wolfeschlegelsteinhausen")],
      ["empty", () => type("#tokens input", "")],
      ["a usual name", () => type("#tokens input", "olivia")],
    ],
    autograd: [
      ...presets.flatMap((p) => [
        [`graph ${p}`, () => press(`#graph-choice [data-value=${p}]`)],
        [`backward ${p}`, () => type("#graph-stepper input", "99")],
      ]),
      ["slider", () => type("#knob-a", "-3")],
      ["slider at 0", () => type("#knob-b", "0")],
      ["own expression", () => type("#own-expression", "exp(a) / (1 + b ** 2)")],
      ["division by zero", () => type("#own-expression", "a / b")],
      ["log of a negative number", () => type("#own-expression", "log(a)")],
      ["too large", () => type("#own-expression", "exp(exp(exp(a * a)))")],
      ["nonsense", () => type("#own-expression", "a + * (")],
      ["nothing", () => type("#own-expression", "")],
      ["step", () => press("#graph-stepper button")],
    ],
    parameters: [
      ["point at a matrix", () => point("#matrices canvas")],
      ["look closer", () => press("#matrices .matrix")],
      ["table of a matrix", () => press("#zoom summary")],
      ["close", () => find("#zoom").close()],
      ["alike", () => press("#alike-letters button:nth-child(5)")],
      ["untrained weights", () => press('#side [data-value="born"]')],
      ["trained weights", () => press('#side [data-value="trained"]')],
    ],
    architecture: [
      ["next operation", () => key("ArrowRight")],
      ["scores", () => type("#arch-stepper input", "8")],
      ["widen", () => type("#arch-stepper input", "14")],
      ["chances", () => type("#arch-stepper input", "19")],
      [
        "box in the drawing",
        () =>
          find("#diagram .op:nth-of-type(4)").dispatchEvent(
            new MouseEvent("click", { bubbles: true }),
          ),
      ],
      ["position", () => press("#arch-positions .tile")],
      ["walk a vector", () => key("ArrowRight", find("#op-output .strip"))],
      ["longest word", () => type("#architecture .word-field input", "abcdefghijklmno")],
    ],
    attention: [
      ["position that asks", () => press("#attn-positions .tile:last-child")],
      ["cell", () => press("#heads .head-card:nth-child(3) .head-row:nth-child(6) .head-cell")],
      ["arrow in the grid", () => key("ArrowUp", find("#heads .head-grid"))],
      ["uniform", () => type("#sharp", "0")],
      ["peaked", () => type("#sharp", "8")],
      ["head off", () => press("#head-switches input")],
      ["restore", () => press("#attn-restore")],
    ],
    training: [
      ["train 1", () => press('[data-train="1"]')],
      ["train 10", () => press('[data-train="10"]')],
      ["train 100", () => press('[data-train="100"]')],
      ["point at the curve", () => point("#loss-chart")],
      ["loupe", () => point("#loupe-map canvas")],
      ["gradients", () => press('#loupe-mode [data-mode="grads"]')],
      [
        "another table",
        () => {
          find("#loupe-matrix").value = "down";
          find("#loupe-matrix").dispatchEvent(new Event("change"));
        },
      ],
      ["slow", () => type("#train-speed", "1")],
      ["train slowly", () => press('[data-train="10"]')],
      ["pause", () => press("#train-pause")],
      ["fast", () => type("#train-speed", "4")],
    ],
    inference: [
      ["another name", () => press("#draw-again")],
      ["coldest", () => type("#temperature", "0.1")],
      ["hottest", () => type("#temperature", "2")],
      ["as trained", () => type("#temperature", "0.5")],
      ["token", () => press("#typed .typed-token")],
      ["table of chances", () => press("#token-table summary")],
    ],

    /** The sections with a list, in the page's order. */
    sections() {
      return [...document.querySelectorAll("section[data-code]")].map((section) => section.id);
    },

    async show(section) {
      document.getElementById(section).scrollIntoView({ behavior: "instant" });
      await new Promise((done) => setTimeout(done, 120));
    },

    /** Does everything on a section's list, each drawn before the next; gives the names. */
    async play(section) {
      await this.show(section);
      for (const [, action] of this[section]) {
        action();
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 40)));
      }
      return this[section].map(([name]) => name);
    },

    /** Puts a section's list behind the key; gives the names. */
    async lineUp(section) {
      await this.show(section);
      line = [...this[section]];
      return line.map(([name]) => name);
    },

    /** Milliseconds from the last press of the key until its effect was on the screen. */
    async took() {
      const patience = performance.now() + 80; // an entry comes a little after its picture
      do {
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 10)));
        note(clock.takeRecords());
      } while (!presented.has(pressed) && performance.now() < patience);
      if (!pressed) throw new Error(`the browser got no ${KEY}`);
      const took = presented.get(pressed) ?? SHORTEST_MS;
      pressed = 0;
      return took;
    },

    /** Seconds from pressing "Train to the end" until the last step is shown. */
    async trainAll() {
      const until = async (steps) => {
        while (training.done !== steps) await new Promise((done) => setTimeout(done, 5));
      };
      press('[data-train="1"]'); // the names are unpacked and the worker runs
      await until(1);
      press("#train-reset");
      await until(0);
      const start = performance.now();
      press('[data-train="1000"]');
      await until(CONFIG.steps);
      return (performance.now() - start) / 1000;
    },

    /** Opens every fold, and one code panel: the seven hold the same source. */
    unfold() {
      for (const fold of document.querySelectorAll("details")) fold.open = true;
      codePanels.attention.toggle(true);
    },

    /** Until the first name is typed: what is still fading in has too little contrast. */
    async settled() {
      const fading = () => document.getAnimations().some((a) => a.animationName === "arrive");
      while (!find("#typed-note").textContent || fading()) {
        await new Promise((done) => setTimeout(done, 100));
      }
    },

    /** What axe finds with everything unfolded. The program brought axe. */
    async findings() {
      this.unfold();
      await this.settled();
      const { violations } = await axe.run(document, { resultTypes: ["violations"] });
      const places = (nodes) => nodes.slice(0, 5).map((node) => node.target[0]);
      return violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: places(nodes) }));
    },

    async measures() {
      const sideways = document.documentElement.scrollWidth - innerWidth;
      return { sideways_px: Math.max(0, sideways), frame_p95_ms: await this.frames() };
    },

    /** The frame time that 95% of the frames of a running animation stay below. */
    async frames(milliseconds = 2000) {
      press("#graph-choice [data-value=softmax]");
      document.getElementById("graph").scrollIntoView({ behavior: "instant" });
      press("#graph-stepper .play");
      const gaps = [];
      const start = performance.now();
      for (let last = start; last - start < milliseconds;) {
        const now = await new Promise((done) => requestAnimationFrame(done));
        gaps.push(now - last);
        last = now;
      }
      return gaps.slice(2).sort((a, b) => a - b)[Math.floor((gaps.length - 2) * 0.95)];
    },

    /** Words a reader must never meet, and the notice that something failed. */
    nonsense() {
      const words = document.body.innerText.match(/NaN|undefined|Infinity|\[object|null/g) || [];
      return find("#problem").hidden ? words : [...words, find("#problem").innerText];
    },
  };
})();
