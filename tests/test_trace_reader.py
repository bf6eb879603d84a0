"""The TypeScript reader reads the shared vectors as the Python reader does (test_trace.py)."""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TYPESCRIPT = ROOT / "tests" / "browser" / "node_modules" / "typescript"
READER = ROOT / "docs" / "viewer" / "src" / "trace" / "reader.ts"
VECTORS = ROOT / "tests" / "data" / "trace"

# Compiles the reader, reads every vector, prints what it read in the form of expected.json.
DRIVER = """
import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";
const [typescript, reader, vectors, out] = process.argv.slice(2);
const ts = createRequire(import.meta.url)(typescript);
const compilerOptions = { module: "ESNext", target: "ES2022" };
const options = { compilerOptions, reportDiagnostics: true };
const compiled = ts.transpileModule(readFileSync(reader, "utf-8"), options);
if (compiled.diagnostics.length) throw new Error(JSON.stringify(compiled.diagnostics));
writeFileSync(out, compiled.outputText);
const { openTrace, halfToNumber } = await import(out);
const found = [];
for (const { file, tensors } of JSON.parse(readFileSync(`${vectors}/expected.json`, "utf-8"))) {
  const manifest = JSON.parse(readFileSync(`${vectors}/${file}`, "utf-8"));
  const bytes = readFileSync(`${vectors}/${file.replace(".json", ".safetensors")}`);
  const payload = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  const trace = openTrace(manifest, payload);
  const read = tensors.map(({ name, step }) => {
    const { shape, values } = trace.tensor(name, step);
    return { name, step, shape, values: [...values].map((v) => (Number.isNaN(v) ? null : v)) };
  });
  found.push({ file, tensors: read });
  let refused = "";
  try { openTrace(manifest, payload.slice(0, -1)); } catch (error) { refused = error.message; }
  if (!refused.includes("the manifest says")) throw new Error("a cut file was read");
}
const halves = Array.from({ length: 65536 }, (_, bits) => halfToNumber(bits));
const words = { found, halves: halves.map((v) => (Number.isNaN(v) ? "nan" : `${v}`)) };
console.log(JSON.stringify(words));
"""


@pytest.mark.slow
def test_typescript_reads_the_shared_vectors_and_every_half_precision_number(tmp_path):
    import numpy as np

    assert TYPESCRIPT.is_dir(), "no TypeScript here: run dev/browser.sh"
    driver = tmp_path / "driver.mjs"
    driver.write_text(DRIVER)
    paths = [str(TYPESCRIPT), str(READER), str(VECTORS), str(tmp_path / "reader.mjs")]
    done = subprocess.run(["node", str(driver), *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    expected = json.loads((VECTORS / "expected.json").read_text())
    assert told["found"] == expected
    truth = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float64)
    theirs = np.array([float(word) for word in told["halves"]])
    assert np.array_equal(theirs, truth, equal_nan=True)
