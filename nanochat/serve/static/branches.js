// Branches of a chat: when a question is edited or answered again, what followed is kept, not lost.
// chat.messages is the path that is shown. chat.forks[id of the message before the fork] holds the
// other tails: {tails: [[message, ...] or null for the shown one, ...], at: index of the shown one}.
// Read: fork -> tailsAt -> switchTo. No DOM here.

const keyAt = (chat, at) => chat.messages[at - 1]?.id ?? "start";

/** Put the messages from `at` on aside as a branch, and begin a new one there. */
export function fork(chat, at) {
  chat.forks ??= {};
  const key = keyAt(chat, at);
  const here = (chat.forks[key] ??= { tails: [null], at: 0 });
  here.tails[here.at] = chat.messages.splice(at);
  here.at = here.tails.push(null) - 1;
}

/** {count, at} of the branches that begin with message `at`, or null where there is only one. */
export function tailsAt(chat, at) {
  const here = chat.forks?.[keyAt(chat, at)];
  return here && here.tails.length > 1 ? { count: here.tails.length, at: here.at } : null;
}

/** Show another branch at message `at`. */
export function switchTo(chat, at, wanted) {
  const here = chat.forks[keyAt(chat, at)];
  if (wanted === here.at || !here.tails[wanted]) return;
  here.tails[here.at] = chat.messages.splice(at);
  chat.messages.push(...here.tails[wanted]);
  here.tails[wanted] = null;
  here.at = wanted;
}
