/* The loss curve on a canvas: every loss as a dot, its running mean as a line, Python's behind it.

   A new step adds a dot and a piece of line to what is there; the mark of the step that is looked
   at lies above the canvas. Read: meanAt -> LossChart.draw -> begin, add -> look. */
"use strict";

const MEAN_OVER = 50;

/** Mean of the last 50 (or fewer) up to step i. */
function meanAt(numbers, i) {
  const from = Math.max(0, i + 1 - MEAN_OVER);
  let sum = 0;
  for (let k = from; k <= i; k++) sum += numbers[k];
  return sum / (i + 1 - from);
}

class LossChart {
  constructor(canvas, python) {
    Object.assign(this, { canvas, python, looked: -1, drawn: 0, width: 0 });
    this.mark = el("div.chart-mark", { hidden: true }, el("i"));
    canvas.after(this.mark);
    this.top = Math.max(...python) + 0.2;
    this.floor = Math.floor(Math.min(...python));
    onWidth(canvas.parentElement, (width) => {
      this.width = width;
      this.height = Math.max(180, Math.min(280, width * 0.38));
      canvas.style.height = `${this.height}px`;
      this.begin();
      this.draw(training.losses);
    });
    canvas.addEventListener("pointermove", (event) => this.look(this.stepAt(event.offsetX)));
    canvas.addEventListener("keydown", (event) => {
      const delta = { ArrowLeft: -1, ArrowRight: 1, Home: -1e4, End: 1e4 }[event.key];
      if (!delta) return;
      event.preventDefault();
      event.stopPropagation();
      this.look(this.looked + delta);
    });
  }

  look(step) {
    this.looked = Math.max(0, Math.min(training.losses.length - 1, step));
    this.showMark(training.losses);
    this.onLook?.(this.looked);
  }

  x(step) {
    return 38 + (step / CONFIG.steps) * (this.width - 48);
  }
  y(loss) {
    return (
      10 +
      (1 - (Math.max(loss, this.floor) - this.floor) / (this.top - this.floor)) * (this.height - 36)
    );
  }
  stepAt(x) {
    return Math.round(((x - 38) / (this.width - 48)) * CONFIG.steps) - 1;
  }

  /** Brings the picture up to the newest loss. */
  draw(losses) {
    if (!this.width) return;
    if (losses.length < this.drawn || this.theme !== themeName()) this.begin();
    this.add(losses);
    this.showMark(losses);
    const now = losses.length
      ? `after ${losses.length} steps the running mean is ${fmt(lastMean(losses), 3)}`
      : "no step taken yet";
    this.canvas.setAttribute("aria-label", `Loss curve: ${now}`);
  }

  /** An empty chart: axes, and Python's running mean. */
  begin() {
    this.theme = themeName();
    this.drawn = 0;
    this.pen = sharpContext(this.canvas, this.width, this.height);
    this.axes(this.pen);
    this.line(this.python, 0, cssColour("quiet"), 5, 0.35);
  }

  /** Dots and mean of the steps that are not drawn yet. */
  add(losses) {
    const { pen } = this;
    pen.fillStyle = cssColour("loss");
    pen.globalAlpha = 0.6;
    for (let i = this.drawn; i < losses.length; i++) {
      pen.fillRect(this.x(i + 1) - 1, this.y(losses[i]) - 1, 2, 2);
    }
    pen.globalAlpha = 1;
    if (losses.length > this.drawn) {
      this.line(losses, Math.max(0, this.drawn - 1), cssColour("loss"), 2, 1);
    }
    this.drawn = losses.length;
  }

  axes(pen) {
    pen.strokeStyle = cssColour("line");
    pen.fillStyle = cssColour("quiet");
    pen.font = "12px system-ui, sans-serif";
    pen.lineWidth = 1;
    for (let loss = this.floor; loss <= this.top; loss++) {
      pen.beginPath();
      pen.moveTo(this.x(0), this.y(loss));
      pen.lineTo(this.x(CONFIG.steps), this.y(loss));
      pen.stroke();
      pen.fillText(String(loss), 22, this.y(loss) + 4);
    }
    for (let step = 0; step <= CONFIG.steps; step += this.width < 500 ? 500 : 250) {
      const label = `${step}${step === CONFIG.steps ? " steps" : ""}`;
      pen.textAlign = step === 0 ? "left" : step === CONFIG.steps ? "right" : "center";
      pen.fillText(label, this.x(step), this.height - 8);
    }
    pen.textAlign = "left";
    const blind = -Math.log(1 / CONFIG.vocabulary);
    pen.setLineDash([4, 4]);
    pen.beginPath();
    pen.moveTo(this.x(0), this.y(blind));
    pen.lineTo(this.x(CONFIG.steps), this.y(blind));
    pen.stroke();
    pen.setLineDash([]);
    pen.textAlign = "right";
    pen.fillText(
      `blind guessing: log 27 = ${fmt(blind, 2)}`,
      this.x(CONFIG.steps),
      this.y(blind) - 6,
    );
    pen.textAlign = "left";
  }

  /** The running mean of `numbers` from step `from` on. */
  line(numbers, from, colour, width, alpha) {
    const { pen } = this;
    pen.beginPath();
    for (let i = from; i < numbers.length; i++) {
      pen.lineTo(this.x(i + 1), this.y(meanAt(numbers, i)));
    }
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.lineJoin = "round";
    pen.globalAlpha = alpha;
    pen.stroke();
    pen.globalAlpha = 1;
  }

  showMark(losses) {
    this.mark.hidden = this.looked < 0 || this.looked >= losses.length;
    if (this.mark.hidden) return;
    this.mark.style.transform = `translateX(${this.x(this.looked + 1)}px)`;
    this.mark.firstChild.style.transform = `translateY(${this.y(losses[this.looked])}px)`;
  }
}

const lastMean = (losses) => meanAt(losses, losses.length - 1);
