/* Python's random numbers, draw for draw.

   CPython's `random` module is a Mersenne Twister (MT19937). Seeded alike, this class yields the
   same bits, so the same shuffle, the same starting weights and the same sampled letters.
   Read: seed -> nextWord -> random -> shuffle, gauss, choose. */
"use strict";

class PythonRandom {
  static WORDS = 624;

  constructor(seed) {
    this.words = new Uint32Array(PythonRandom.WORDS);
    this.next = PythonRandom.WORDS; // index of the next unused word; 624 means "twist first"
    this.spareGauss = null; // gauss() makes two numbers at a time and keeps the second
    this.seed(seed);
  }

  /** random.seed(n) for a whole number 0 <= n < 2**32: CPython calls init_by_array([n]). */
  seed(n) {
    const { words } = this;
    const size = PythonRandom.WORDS;
    fillFromOneNumber(words, 19650218);
    let i = 1;
    for (let k = 0; k < size; k++) {
      const mixed = words[i - 1] ^ (words[i - 1] >>> 30);
      words[i] = (words[i] ^ Math.imul(mixed, 1664525)) + n; // one key, so "+ key[j] + j" is + n
      if (++i >= size) {
        words[0] = words[size - 1];
        i = 1;
      }
    }
    for (let k = 0; k < size - 1; k++) {
      const mixed = words[i - 1] ^ (words[i - 1] >>> 30);
      words[i] = (words[i] ^ Math.imul(mixed, 1566083941)) - i;
      if (++i >= size) {
        words[0] = words[size - 1];
        i = 1;
      }
    }
    words[0] = 0x80000000;
    this.next = size;
    this.spareGauss = null;
  }

  /** 32 fresh random bits. */
  nextWord() {
    if (this.next >= PythonRandom.WORDS) this.twist();
    let y = this.words[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return y >>> 0;
  }

  twist() {
    const { words } = this;
    const size = PythonRandom.WORDS;
    for (let i = 0; i < size; i++) {
      const y = (words[i] & 0x80000000) | (words[(i + 1) % size] & 0x7fffffff);
      words[i] = words[(i + 397) % size] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }

  /** random.random(): 53 random bits as a number in [0, 1). */
  random() {
    const high = this.nextWord() >>> 5;
    const low = this.nextWord() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }

  /** A whole number in [0, n) without bias: draw just enough bits, and again if too large. */
  below(n) {
    const bits = 32 - Math.clz32(n);
    let drawn = this.nextWord() >>> (32 - bits);
    while (drawn >= n) drawn = this.nextWord() >>> (32 - bits);
    return drawn;
  }

  /** random.shuffle(list), in place. */
  shuffle(list) {
    for (let i = list.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [list[i], list[j]] = [list[j], list[i]];
    }
  }

  /** random.gauss(mean, spread): the bell curve. */
  gauss(mean, spread) {
    let z = this.spareGauss;
    this.spareGauss = null;
    if (z === null) {
      const angle = this.random() * 2 * Math.PI;
      const radius = Math.sqrt(-2 * Math.log(1 - this.random()));
      z = Math.cos(angle) * radius;
      this.spareGauss = Math.sin(angle) * radius;
    }
    return mean + z * spread;
  }

  /** random.choices(range(len(weights)), weights)[0], with the draw that decided it. */
  choose(weights) {
    const edges = [];
    let total = 0;
    for (const w of weights) edges.push((total += w));
    const draw = this.random();
    let pick = 0;
    while (pick < edges.length - 1 && edges[pick] <= draw * total) pick++;
    return { pick, draw };
  }
}

function fillFromOneNumber(words, n) {
  words[0] = n;
  for (let i = 1; i < words.length; i++) {
    const mixed = words[i - 1] ^ (words[i - 1] >>> 30);
    words[i] = Math.imul(mixed, 1812433253) + i;
  }
}
