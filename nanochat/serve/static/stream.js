// Ask the server and read its answer as it is written: server-sent events over fetch.
// Read: ask -> readEvents -> ServerError.

import { loadKey } from "./store.js";

export class ServerError extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/** Yields the chunks of one answer. Throws ServerError, or AbortError when `signal` stopped it. */
export async function* ask(request, signal) {
  const headers = { "Content-Type": "application/json", ...authorization() };
  let response;
  try {
    response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers,
      body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw unreachable();
  }
  if (!response.ok) throw await refusal(response);
  for await (const data of readEvents(response.body, signal)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, chunk.error.code);
    yield chunk;
  }
  throw new ServerError("The connection broke before the answer was complete.", "cut_off");
}

/** The data of each event. An event may arrive in pieces, or many in one piece. */
export async function* readEvents(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      held += value;
      let end;
      while ((end = held.indexOf("\n\n")) >= 0) {
        const event = held.slice(0, end);
        held = held.slice(end + 2);
        if (event.startsWith("data: ")) yield event.slice(6);
      }
    }
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError("The connection broke before the answer was complete.", "cut_off");
  } finally {
    reader.releaseLock();
  }
}

function authorization() {
  const key = loadKey();
  // A header can't carry it, so no server ever gave it out: fetch would fail without a reason.
  if (/[^\x21-\x7e]/.test(key)) throw new ServerError("No API key looks like that.", "invalid_api_key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function refusal(response) {
  try {
    const { error } = await response.json();
    return new ServerError(error.message, error.code);
  } catch {
    return new ServerError(`The server answered ${response.status} without a reason.`, "unknown");
  }
}

function unreachable() {
  const remedy = "Is it still running? It is started with: make up";
  return new ServerError(`The server can't be reached. ${remedy}`, "unreachable");
}

/** What is served, its limits and defaults. */
export async function fetchStats() {
  const response = await fetch("/stats");
  if (!response.ok) throw await refusal(response);
  return response.json();
}
