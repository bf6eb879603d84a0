/* The opening picture: all parameters as dots, and the model typing names.

   Read: mosaicBoxes -> drawMosaic -> startTyping. */
"use strict";

/** Where each matrix stands in the mosaic, in dots. All are turned so that they are 16 high. */
const MOSAIC_ROWS = [
  ["token", "position", "query", "key", "value", "mix", "head"],
  ["up", "down"],
];
const MOSAIC_GAP = 2;

function mosaicBoxes() {
  const boxes = [];
  const widthOf = (name) => LAYOUT[name].size / CONFIG.channels;
  const rowWidth = (names) => names.reduce((w, n) => w + widthOf(n) + MOSAIC_GAP, -MOSAIC_GAP);
  const width = Math.max(...MOSAIC_ROWS.map(rowWidth));
  MOSAIC_ROWS.forEach((names, row) => {
    const spare = (width - rowWidth(names)) / (names.length - 1);
    let left = 0;
    for (const name of names) {
      boxes.push({ name, left, top: row * (CONFIG.channels + 4), width: widthOf(name) });
      left += widthOf(name) + MOSAIC_GAP + spare;
    }
  });
  return { boxes, width, height: 2 * CONFIG.channels + 7 };
}

/** Which parameter is dot (x, y) of a box: tall matrices lie on their side. */
function mosaicParameter({ name }, x, y) {
  const { rows, cols, start } = LAYOUT[name];
  return rows === CONFIG.channels ? start + y * cols + x : start + x * cols + y;
}

const mosaic = { boxes: mosaicBoxes(), dot: 1 };

function drawMosaic() {
  const canvas = $("#mosaic");
  const { boxes, width, height } = mosaic.boxes;
  const wide = canvas.parentElement.clientWidth;
  mosaic.dot = wide / width;
  const { dot } = mosaic;
  canvas.style.height = `${height * dot}px`;
  const context = sharpContext(canvas, wide, height * dot);
  const weights = models.current;
  const limit = largest(weights) * 0.6;
  const gap = dot > 4 ? 1 : 0;
  for (const box of boxes) {
    for (let x = 0; x < box.width; x++) {
      for (let y = 0; y < CONFIG.channels; y++) {
        context.fillStyle = rampColour(weights[mosaicParameter(box, x, y)], limit);
        context.fillRect((box.left + x) * dot, (box.top + y) * dot, dot - gap, dot - gap);
      }
    }
    context.fillStyle = cssColour(PART_OF[box.name]);
    const below = (box.top + CONFIG.channels) * dot + 1;
    context.fillRect(box.left * dot, below, box.width * dot - gap, Math.max(2, dot * 0.4));
    if (dot < 5) continue;
    context.font = "600 12px ui-monospace, Menlo, Consolas, Liberation Mono, monospace";
    context.fillText(box.name, box.left * dot, below + 17);
  }
  const [up, down] = boxes.slice(-2);
  if (dot < 5) return;
  context.fillStyle = cssColour("quiet");
  context.textAlign = "center";
  const middle = (up.left + up.width + down.left) / 2;
  context.fillText("→ relu →", middle * dot, (up.top + CONFIG.channels / 2) * dot + 4);
}

function pointAtMosaic(event) {
  const { left, top } = $("#mosaic").getBoundingClientRect();
  const x = (event.clientX - left) / mosaic.dot;
  const y = (event.clientY - top) / mosaic.dot;
  const box = mosaic.boxes.boxes.find(
    (b) => x >= b.left && x < b.left + b.width && y >= b.top && y < b.top + CONFIG.channels,
  );
  if (!box) return;
  const index = mosaicParameter(box, Math.floor(x - box.left), Math.floor(y - box.top));
  $("#mosaic-note").textContent =
    `${parameterName(index)} = ${fmt(models.current[index], 4)}: ${PURPOSE[box.name]}`;
}

/** Types a few invented names, each with its own seed, over the chances behind each letter. */
function startTyping() {
  const [out, note, bars] = [$("#hero-name"), $("#hero-note"), new ChanceBars()];
  $("#hero-bars").append(bars.node);
  const rest = 1200;
  let seed = 0;
  const show = (picks, i) => {
    out.textContent = wordOf(picks.slice(0, i + 1));
    bars.show(picks[i].probs, { chosen: picks[i].token });
  };
  const name = () => {
    seed++;
    const picks = generate(models.trained, new PythonRandom(seed), CONFIG.temperature);
    note.textContent =
      `The model in this page is writing a name. Bars: its chances for the ` +
      `next letter. Seed ${seed}.`;
    let i = calm.matches ? picks.length - 1 : 0;
    const letter = () => {
      show(picks, i++);
      if (i < picks.length) setTimeout(letter, 330);
      else if (seed < 4 && !calm.matches) setTimeout(name, rest);
      else note.textContent = `Written by the model in this page, letter by letter. Seed ${seed}.`;
    };
    letter();
  };
  name();
}

function startHero() {
  live("top", ["model"], drawMosaic);
  addEventListener("resize", perFrame(drawMosaic));
  $("#mosaic").addEventListener("pointermove", pointAtMosaic);
  startTyping();
}
