/* The engine without a browser: `node engine_check.mjs VALUE_STEPS NAMES PYTHON_RUN`.

   Prints one JSON object: gaps to Python's run, gradients against Values, the random generator's
   first draws, and the line numbers of every code region. tests/test_guide.py judges them. */
import { readdirSync, readFileSync } from "node:fs";

const [valueSteps, namesPath, pythonPath, sourcePath] = process.argv.slice(2);
const guide = new URL("..", import.meta.url);
const read = (path) => readFileSync(path, "utf8");
const engine = readdirSync(new URL("engine/", guide))
  .sort()
  .map((file) => read(new URL(`engine/${file}`, guide)))
  .join("\n");
const regions = read(new URL("ui/08_code.js", guide));

/** Largest difference between the hand-written gradient and Values, over the given words. */
const program = `${engine}\n${regions}
function gradientGap(words, weights) {
  let gap = 0;
  for (const word of words) {
    const tokens = tokenize(word);
    const x = forward(weights, tokens, Math.min(CONFIG.context, tokens.length - 1));
    const fast = backward(weights, tokens, x);
    const model = new ScalarGPT(weights);
    model.loss(tokens).backward();
    model.parameters.forEach((p, i) => { gap = Math.max(gap, Math.abs(p.grad - fast[i])); });
  }
  return gap;
}
function draws(seed) {
  const rng = new PythonRandom(seed);
  const list = Array.from({ length: 50 }, (_, i) => i);
  rng.shuffle(list);
  const numbers = (f) => Array.from({ length: 20 }, f);
  return {
    shuffled: list,
    random: numbers(() => rng.random()),
    gauss: numbers(() => rng.gauss(0, 0.08)),
    choices: numbers(() => rng.choose([1, 2, 3, 0, 4]).pick),
  };
}
return {
  report: compareWithPython(names, python, valueSteps),
  gradientGap: gradientGap(["", "a", "maximiliana", "abcdefghijklmno", "abcdefghijklmnopqr"],
    initialState(names).weights),
  draws: draws(7),
  regions: Object.fromEntries(Object.keys(REGIONS).map((r) => [r, linesOf(source, r)])),
  lowestRate: Math.min(...[0, 500, 999, 1000, 1001, 5000].map(learningRateAt)),
};`;

const names = read(namesPath).trim().split("\n");
const run = new Function("names", "python", "valueSteps", "source", program);
const result = run(names, JSON.parse(read(pythonPath)), Number(valueSteps), read(sourcePath));
console.log(JSON.stringify(result));
