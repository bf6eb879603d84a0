/* The loss curve on a canvas: every loss as a dot, its running mean as a line, Python's behind it.

   Read: runningMean -> LossChart.draw. */
"use strict";

const MEAN_OVER = 50;

/** Mean of the last 50 (or fewer) at each place. */
function runningMean(numbers) {
  const means = [];
  let sum = 0;
  numbers.forEach((x, i) => {
    sum += x;
    if (i >= MEAN_OVER) sum -= numbers[i - MEAN_OVER];
    means.push(sum / Math.min(i + 1, MEAN_OVER));
  });
  return means;
}

class LossChart {
  constructor(canvas, python) {
    Object.assign(this, { canvas, python, pythonMeans: runningMean(python), looked: -1 });
    this.top = Math.max(...python) + 0.2;
    this.floor = Math.floor(Math.min(...python));
    canvas.addEventListener("pointermove", (event) => {
      const { left } = canvas.getBoundingClientRect();
      this.look(this.stepAt(event.clientX - left));
    });
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
    this.draw(training.losses);
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

  draw(losses) {
    this.width = this.canvas.parentElement.clientWidth;
    this.height = Math.max(180, Math.min(280, this.width * 0.38));
    this.canvas.style.height = `${this.height}px`;
    const pen = sharpContext(this.canvas, this.width, this.height);
    this.axes(pen);
    this.line(pen, this.pythonMeans, cssColour("quiet"), 5, 0.35);
    pen.fillStyle = cssColour("loss");
    pen.globalAlpha = 0.6;
    losses.forEach((loss, i) => pen.fillRect(this.x(i + 1) - 1, this.y(loss) - 1, 2, 2));
    pen.globalAlpha = 1;
    this.line(pen, runningMean(losses), cssColour("loss"), 2, 1);
    if (this.looked >= 0 && this.looked < losses.length) this.marker(pen, losses);
    const now = losses.length
      ? `after ${losses.length} steps the running mean is ${fmt(runningMean(losses).pop(), 3)}`
      : "no step taken yet";
    this.canvas.setAttribute("aria-label", `Loss curve: ${now}`);
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

  line(pen, numbers, colour, width, alpha) {
    pen.beginPath();
    numbers.forEach((y, i) => pen.lineTo(this.x(i + 1), this.y(y)));
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.lineJoin = "round";
    pen.globalAlpha = alpha;
    pen.stroke();
    pen.globalAlpha = 1;
  }

  marker(pen, losses) {
    const [x, y] = [this.x(this.looked + 1), this.y(losses[this.looked])];
    pen.strokeStyle = cssColour("ink");
    pen.beginPath();
    pen.moveTo(x, 10);
    pen.lineTo(x, this.height - 26);
    pen.stroke();
    pen.fillStyle = cssColour("loss");
    pen.beginPath();
    pen.arc(x, y, 4.5, 0, 7);
    pen.fill();
  }
}
