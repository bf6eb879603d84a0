/* The page's side of the training worker: asks for steps, keeps the newest state.

   The worker (worker/main.js) owns a Trainer and answers with copies. Where a worker can't be
   started the same code runs here, a few steps a frame. Read: training -> startWorker. */
"use strict";

const training = {
  done: 0, // steps taken so far
  losses: [],
  last: null, // {word, each, mean} of the newest step
  grads: null,
  m: null,
  v: null,
  running: false,
  listeners: [],
  worker: null,

  on(f) {
    this.listeners.push(f);
  },

  /** Take `count` steps at `perSecond` (Infinity: as fast as it goes). */
  train(count, perSecond) {
    this.running = true;
    this.ask({ type: "train", count, perSecond });
    this.tell();
  },
  pause() {
    this.ask({ type: "pause" });
  },
  reset() {
    this.ask({ type: "reset" });
  },
  setSpeed(perSecond) {
    this.ask({ type: "speed", perSecond });
  },

  ask(message) {
    this.worker ??= startWorker((answer) => this.hear(answer));
    this.worker.postMessage(message);
  },

  hear(answer) {
    if (answer.type === "state") {
      const { weights, losses, ...rest } = answer;
      this.losses.length = answer.done - losses.length;
      this.losses.push(...losses);
      Object.assign(this, rest);
      models.setMine(weights);
      state.set({ steps: this.done });
      this.tell();
    }
  },

  tell() {
    for (const f of this.listeners) f();
  },

  /** Repeats Python's whole run in a worker of its own, beside the visible training. */
  verify(onAnswer) {
    const { losses, samples } = Python.run;
    const worker = startWorker((answer) => {
      onAnswer(answer);
      if (answer.type === "verified") worker.terminate?.();
    });
    worker.postMessage({ type: "verify", python: { losses, samples } });
  },
};

/** Something with postMessage: a Worker made of this page's own scripts, or a stand-in. */
function startWorker(hear) {
  const source = ["#engine", "#worker"].map((id) => $(id).textContent).join("\n");
  const sendNames = (worker) =>
    Python.names()
      .then((names) => worker.postMessage({ type: "names", names }))
      .catch(() =>
        showProblem(
          "This browser can't unpack the list of names, so training is off. " +
            "Everything else works with the weights carried in the page.",
        ),
      );
  try {
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(address);
    worker.onmessage = (event) => hear(event.data);
    sendNames(worker);
    return worker;
  } catch {
    const { receive } = makeTrainingServer(hear);
    const standIn = { postMessage: (message) => receive(message) };
    sendNames(standIn);
    return standIn;
  }
}
