/* Words explained where they stand: <button class="term" data-term="logit">…</button>.

   A tip opens on hover and on focus, stays while the pointer is on it, and closes with Escape.
   The same texts make the glossary at the foot of the page. Read: showTip -> startTips. */
"use strict";

const tip = {
  box: null,
  owner: null,
  timer: 0,

  show(owner) {
    clearTimeout(this.timer);
    if (this.owner === owner) return;
    this.hide();
    const entry = GLOSSARY[owner.dataset.term];
    this.owner = owner;
    $("#tip-title").textContent = entry.word;
    $("#tip-text").textContent = entry.text;
    this.box.hidden = false;
    owner.setAttribute("aria-describedby", "tip");
    this.place();
  },

  /** Below the word if there is room, else above; never outside the window. */
  place() {
    const word = this.owner.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.box;
    const left = Math.max(8, Math.min(word.left, document.documentElement.clientWidth - width - 8));
    const below = word.bottom + 6;
    const top = below + height < innerHeight ? below : word.top - height - 6;
    this.box.style.left = `${left + scrollX}px`;
    this.box.style.top = `${top + scrollY}px`;
  },

  hide() {
    if (!this.owner) return;
    this.owner.removeAttribute("aria-describedby");
    this.owner = null;
    this.box.hidden = true;
  },

  hideSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.hide(), 250);
  },
};

function startTips() {
  tip.box = $("#tip");
  const term = (event) => event.target.closest?.(".term");
  document.addEventListener("pointerover", (event) => {
    if (term(event)) tip.show(term(event));
    else if (event.target.closest?.("#tip")) clearTimeout(tip.timer);
    else if (tip.owner && tip.owner !== document.activeElement) tip.hideSoon();
  });
  document.addEventListener("focusin", (event) => {
    if (term(event)) tip.show(term(event));
    else tip.hide();
  });
  document.addEventListener("click", (event) => {
    if (term(event)) tip.show(term(event));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hide();
  });

  const entries = Object.entries(GLOSSARY).sort((a, b) => a[1].word.localeCompare(b[1].word));
  $("#glossary-list").append(
    ...entries.map(([key, { word, text }]) =>
      el("div", { id: `term-${key}` }, el("dt", {}, word), el("dd", {}, text)),
    ),
  );
}
