/* Only the worker runs this: connects the server to the page. */
"use strict";
if (typeof window === "undefined") {
  const { receive } = makeTrainingServer((message) => postMessage(message));
  onmessage = (event) => receive(event.data);
}
