/* Answers the page's questions about training, in a worker so that the page never waits.

   Messages in: names, train {count, perSecond}, speed, pause, reset, verify. Messages out: state
   (copies of everything a chart needs), progress and verified. Questions that come before the
   names wait for them. Read: makeTrainingServer. */
"use strict";

const SLICE_MS = 14; // work at most this long before listening again
const VALUE_STEPS = 100; // of these, verify repeats so many with Values too

function makeTrainingServer(answer) {
  let names = null;
  let trainer = null;
  let left = 0;
  let perSecond = Infinity;
  let timer = 0;
  let last = null;
  const early = [];

  function sendState(losses) {
    const { weights, grads, m, v, done } = trainer;
    const copies = [weights, grads, m, v].map((numbers) => numbers.slice());
    answer({
      type: "state",
      done,
      losses,
      last,
      running: left > 0,
      weights: copies[0],
      grads: copies[1],
      m: copies[2],
      v: copies[3],
    });
  }

  /** Some steps, then a rest as long as the speed asks for. */
  function work() {
    const losses = [];
    const until = performance.now() + SLICE_MS;
    do {
      last = trainer.step() ?? last;
      losses.push(last.mean);
      left--;
    } while (left > 0 && perSecond === Infinity && performance.now() < until);
    sendState(losses);
    if (left > 0) timer = setTimeout(work, perSecond === Infinity ? 0 : 1000 / perSecond);
  }

  const handlers = {
    train(message) {
      clearTimeout(timer);
      perSecond = message.perSecond;
      left = Math.min(message.count, CONFIG.steps - trainer.done);
      if (left > 0) work();
      else sendState([]);
    },
    speed(message) {
      perSecond = message.perSecond;
      if (left > 0) {
        clearTimeout(timer);
        work();
      }
    },
    pause() {
      clearTimeout(timer);
      left = 0;
      sendState([]);
    },
    reset() {
      clearTimeout(timer);
      left = 0;
      last = null;
      trainer = new Trainer(names);
      sendState([]);
    },
    verify(message) {
      const start = performance.now();
      const report = compareWithPython(names, message.python, VALUE_STEPS, (fraction) =>
        answer({ type: "progress", fraction }),
      );
      answer({ type: "verified", report, seconds: (performance.now() - start) / 1000 });
    },
  };

  function receive(message) {
    if (message.type === "names") {
      names = message.names;
      trainer = new Trainer(names);
      early.splice(0).forEach(receive);
    } else if (names === null) {
      early.push(message);
    } else {
      handlers[message.type](message);
    }
  }
  return { receive };
}
