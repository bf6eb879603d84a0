/* Colours with a meaning, for canvases and cells. Names of colours live in style/1_base.css.

   A number's colour runs from violet (negative) through the background (zero) to gold (positive);
   these two are told apart by every common kind of colour blindness. Read: rampColour -> paint. */
"use strict";

const RAMPS = {
  dark: { low: [151, 128, 255], zero: [27, 33, 43], high: [255, 205, 92] },
  light: { low: [84, 48, 190], zero: [245, 243, 236], high: [176, 108, 0] },
};

/** What each matrix belongs to; the class name picks the colour in CSS. */
const PART_OF = {
  token: "embed",
  position: "embed",
  head: "output",
  query: "attn",
  key: "attn",
  value: "attn",
  mix: "attn",
  up: "mlp",
  down: "mlp",
};
const PART_NAMES = {
  embed: "embeddings",
  attn: "attention",
  mlp: "thinking layer (MLP)",
  output: "output head",
};

function themeName() {
  return document.documentElement.dataset.theme;
}

const namedColours = new Map(); // asking the browser makes it style the page first

function cssColour(name) {
  const key = `${themeName()} ${name}`;
  if (!namedColours.has(key)) {
    const style = getComputedStyle(document.documentElement);
    namedColours.set(key, style.getPropertyValue(`--${name}`).trim());
  }
  return namedColours.get(key);
}

/** [r, g, b] of a value, full colour at ±limit. The root makes small numbers visible too. */
function rampRgb(value, limit) {
  const ramp = RAMPS[themeName()];
  const end = value < 0 ? ramp.low : ramp.high;
  const share = limit > 0 ? Math.min(1, Math.abs(value) / limit) ** 0.7 : 0;
  return ramp.zero.map((z, i) => Math.round(z + (end[i] - z) * share));
}

function rampColour(value, limit) {
  return `rgb(${rampRgb(value, limit).join(" ")})`;
}

/** How bright [r, g, b] looks, from 0 to 1 (WCAG's relative luminance). */
function brightness(rgb) {
  const [r, g, b] = rgb.map((c) => {
    const share = c / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Black or white, whichever reads better on that colour: one of them is always above 4.5 : 1. */
function inkFor(rgb) {
  return (brightness(rgb) + 0.05) ** 2 > 1.05 * 0.05 ? "#000000" : "#ffffff";
}

function inkOn(value, limit) {
  return inkFor(rampRgb(value, limit));
}

/** 101 mixtures of two named colours as [r, g, b]: entry 100 is all `name`. */
function mixtures(name, other) {
  const channels = (colour) =>
    [1, 3, 5].map((i) => parseInt(cssColour(colour).slice(i, i + 2), 16));
  const [a, b] = [channels(name), channels(other)];
  return Array.from({ length: 101 }, (_, percents) =>
    a.map((c, i) => Math.round(b[i] + ((c - b[i]) * percents) / 100)),
  );
}

/** The size at which colour is full: the largest number present. */
function largest(numbers) {
  let top = 0;
  for (const x of numbers) top = Math.max(top, Math.abs(x));
  return top || 1;
}

const SHADES = 256; // from zero to full, in each direction
const rampTables = {};

/** The ramp as bytes for a canvas: r, g, b, 255 of -SHADES … SHADES. */
function rampTable() {
  const bytes = () =>
    Uint8ClampedArray.from({ length: (2 * SHADES + 1) * 4 }, (_, at) => {
      const rgb = rampRgb(Math.floor(at / 4) - SHADES, SHADES);
      return [...rgb, 255][at % 4];
    });
  return (rampTables[themeName()] ??= bytes());
}

/** Draws rows × cols numbers on a canvas, one picture dot each; CSS scales it without blur. */
function paint(canvas, numbers, rows, cols, limit = largest(numbers)) {
  if (canvas.width !== cols || canvas.height !== rows) {
    canvas.width = cols;
    canvas.height = rows;
  }
  const context = canvas.getContext("2d");
  const image = context.createImageData(cols, rows);
  const table = rampTable();
  for (let i = 0; i < rows * cols; i++) {
    const share = Math.max(-1, Math.min(1, numbers[i] / limit));
    const from = (Math.round(share * SHADES) + SHADES) * 4;
    for (let k = 0; k < 4; k++) image.data[i * 4 + k] = table[from + k];
  }
  context.putImageData(image, 0, 0);
}

/** A canvas ready for sharp drawing at the screen's own resolution. Units are CSS pixels. */
function sharpContext(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
