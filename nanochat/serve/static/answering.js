// One answer from request to last token: keeps the message up to date and tells who shows it.
// Several chats may answer at once; each has its own way to be stopped.
// Read: start -> apply -> stop.
import { readSources } from "./sources.js";
import { newId, promptOf } from "./store.js";
import { ask, ServerError } from "./stream.js";

const running = new Map(); // chat id -> AbortController

export const isRunning = (chatId) => running.has(chatId);
export const stop = (chatId) => running.get(chatId)?.abort();

/**
 * Append an empty answer to the chat and fill it from the server.
 * `changed(message)` is called for every piece, `ended(message)` once.
 */
export async function start(chat, settings, changed, ended) {
  const { system, ...dials } = settings;
  const { messages, ids } = promptOf(chat.messages, system);
  const message = { id: newId(), role: "assistant", parts: [], state: "streaming", stats: null };
  chat.messages.push(message);
  const controller = new AbortController();
  running.set(chat.id, controller);
  changed(message);
  try {
    const request = { messages, ...dials, truncation: "auto" };
    for await (const chunk of ask(request, controller.signal)) {
      apply(message, chunk, ids);
      changed(message);
    }
    message.state = "done";
  } catch (error) {
    if (controller.signal.aborted) message.state = "stopped";
    else if (error instanceof ServerError) {
      message.state = "failed";
      message.error = { message: error.message, code: error.code };
    } else throw error;
  } finally {
    running.delete(chat.id);
    if (message.state === "streaming") message.state = "failed";
    ended(message);
  }
}

/** Add one chunk to the message. */
export function apply(message, chunk, ids) {
  const delta = chunk.choices[0]?.delta ?? {}; // the last chunk has numbers and no choice
  if (chunk.dropped_messages) message.firstSeen = ids[chunk.dropped_messages];
  if (delta.content) append(message.parts, "text", delta.content);
  for (const call of delta.tool_calls ?? []) {
    const { expression } = JSON.parse(call.function.arguments);
    message.parts.push({ type: "python", text: expression });
  }
  for (const result of delta.tool_results ?? []) {
    message.parts.push({ type: "python_output", text: result.content });
  }
  if (delta.sources) message.sources = readSources(delta.sources, message.sources);
  if (chunk.usage) {
    message.stats = {
      tokens: chunk.usage.completion_tokens,
      promptTokens: chunk.usage.prompt_tokens,
      tokensPerSecond: chunk.timings.tokens_per_s,
      firstTokenSeconds: chunk.timings.first_token_s,
      stop: chunk.stop_detail,
      seed: chunk.seed,
    };
  }
}

function append(parts, type, text) {
  const last = parts.at(-1);
  if (last?.type === type) last.text += text;
  else parts.push({ type, text });
}
