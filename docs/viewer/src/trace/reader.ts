// Read a trace: the manifest says what was seen, the safetensors file holds the numbers.
// The Python twin is nanochat/trace_format.py; both are tested with tests/data/trace.
// No DOM, no fetch: hand it the parsed manifest and the bytes. Read: openTrace -> Trace.tensor.

export interface Stats {
  mean: number;
  std: number;
  rms: number;
  min: number;
  max: number;
  zeros: number; // share of exact zeros
  count: number;
  nonfinite: number; // scores of keys that a query may not see
}

export interface Entry {
  name: string;
  step: number;
  shape: number[];
  axes: string[]; // T tokens, S keys, C channels, H heads, D head size, M hidden, V vocabulary
  dtype: "F16" | "F32" | null; // null: only statistics were kept
  offset: number | null; // first byte in the file, for a range request
  nbytes: number;
  stats: Stats;
  source: { file: string; qualname: string; line: number };
  truncated: Record<string, unknown> | null;
}

export interface Manifest {
  schema_version: number;
  level: "stats" | "topk" | "full";
  steps: { start: number; tokens: number[]; positions: number[] | null }[];
  tensors: Entry[];
  payload: { bytes: number; sha256: string };
}

/** Numbers with their sizes; entries that were not kept are NaN. */
export interface Tensor {
  shape: number[];
  values: Float32Array;
}

export class BadTrace extends Error {}

const SCHEMA = 1;
interface Place {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

export function openTrace(manifest: Manifest, payload: ArrayBuffer): Trace {
  if (manifest.schema_version !== SCHEMA) {
    throw new BadTrace(`schema ${manifest.schema_version}, this reader knows ${SCHEMA}`);
  }
  if (payload.byteLength !== manifest.payload.bytes) {
    throw new BadTrace(`${payload.byteLength} bytes, the manifest says ${manifest.payload.bytes}`);
  }
  const headBytes = Number(new DataView(payload).getBigUint64(0, true));
  const head = new TextDecoder().decode(new Uint8Array(payload, 8, headBytes));
  return new Trace(manifest, JSON.parse(head) as Record<string, Place>, payload, 8 + headBytes);
}

export class Trace {
  constructor(
    readonly manifest: Manifest,
    private readonly places: Record<string, Place>,
    private readonly payload: ArrayBuffer,
    private readonly start: number,
  ) {}

  entry(name: string, step = 0): Entry {
    const found = this.manifest.tensors.find((e) => e.name === name && e.step === step);
    if (!found) throw new BadTrace(`this trace has no ${name} in step ${step}`);
    return found;
  }

  tensor(name: string, step = 0): Tensor {
    const entry = this.entry(name, step);
    const place = this.places[`${step}/${name}`];
    if (!place) throw new BadTrace(`of ${name} in step ${step} only statistics were kept`);
    const values = decode(this.bytes(place), place.dtype);
    const chosen = this.places[`${step}/${name}#index`];
    if (!chosen) return { shape: place.shape, values };
    return spread(values, decode(this.bytes(chosen), "I32"), place.shape, entry.shape.at(-1) ?? 1);
  }

  private bytes(place: Place): ArrayBuffer {
    const [first, last] = place.data_offsets;
    return this.payload.slice(this.start + first, this.start + last); // a copy, so it is aligned
  }
}

/** Top-k values back into their vectors. */
function spread(values: Float32Array, index: Float32Array, shape: number[], width: number): Tensor {
  const kept = shape.at(-1) ?? 1;
  const rows = values.length / kept;
  const whole = new Float32Array(rows * width).fill(NaN);
  for (let i = 0; i < values.length; i += 1) {
    whole[Math.floor(i / kept) * width + index[i]] = values[i];
  }
  return { shape: [...shape.slice(0, -1), width], values: whole };
}

function decode(bytes: ArrayBuffer, dtype: string): Float32Array {
  if (dtype === "F32") return new Float32Array(bytes);
  if (dtype === "I32") return Float32Array.from(new Int32Array(bytes));
  if (dtype === "F16") return Float32Array.from(new Uint16Array(bytes), halfToNumber);
  throw new BadTrace(`numbers of kind ${dtype}`);
}

/** IEEE half precision: 1 sign bit, 5 of exponent, 10 of fraction. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
