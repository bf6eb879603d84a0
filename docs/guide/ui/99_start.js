/* Starts the page: what is seen first, first; the rest one section at a time.

   document.documentElement.dataset.ready says when all of it can be used. */
"use strict";

function startPage() {
  state.readAddress();
  const wanted = state.section;
  setTheme(themeName());
  startScrollSpy();
  startHero();
  startBadge();
  startKeys();
  startTips();
  $("#theme-button").onclick = toggleTheme;
  $("#help-button").onclick = () => $("#help").showModal();
  const parts = [
    startWeightsSwitch,
    startCodePanels,
    startQuizzes,
    startWordFields,
    startTokens,
    startAutograd,
    startParameters,
    startArchitecture,
    startAttention,
    startTraining,
    startInference,
  ];
  const next = () => {
    if (parts.length) {
      parts.shift()();
      setTimeout(next);
      return;
    }
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
    if (wanted && $(`#${wanted}`)) $(`#${wanted}`).scrollIntoView();
    if (state.values.model === "mine") returnToStep(state.values.steps);
  };
  setTimeout(next);
}

function startCodePanels() {
  for (const section of $$("section[data-code]")) new CodePanel(section);
}

function startWordFields() {
  $$(".word-field").forEach(wordField);
}

/** A link to a half-trained model trains it again: the same steps give the same numbers. */
function returnToStep(steps) {
  if (steps > 0) training.train(steps, Infinity);
  else state.set({ model: "trained" });
}

startPage();
