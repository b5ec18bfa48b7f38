/** The page's own endpoints (ui/routes.py). */
import { decodeSteps } from "./codec.js";

/** Something went wrong that the visitor should read about; its message is a sentence. */
export class VisitorError extends Error {}

const UNREACHABLE = "The server does not answer. It may be restarting; please try again in a moment.";

const request = async (path, options) => {
  let response;
  try {
    response = await fetch(new URL(`page/${path}`, document.baseURI), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new VisitorError(UNREACHABLE);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new VisitorError(answer.error ?? UNREACHABLE);
};

const post = (path, body, signal) =>
  request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

/**
 * The JSON answer of an endpoint.
 * @param {string} path Such as "score".
 * @param {object} [body] What to send; without it, the request is a GET.
 * @param {AbortSignal} [signal]
 */
export const fetchJson = async (path, body, signal) =>
  (await (body === undefined ? request(path, { signal }) : post(path, body, signal))).json();

let models;

/**
 * The models that the page offers, in the order of the server, which sorts them by text and from worst to best.
 * @param {boolean} [again] Ask the server again, after a model was opened.
 * @returns {Promise<{default: string, models: object[]}>} See `describe` in ui/routes.py.
 */
export const fetchModels = (again = false) => {
  if (!models || again) {
    models = fetchJson("models");
    models.catch(() => {
      models = undefined; // ask again next time
    });
  }
  return models;
};

/** A model by its id, or undefined. */
export const fetchModel = async (id) => (await fetchModels()).models.find((model) => model.id === id);

/**
 * Stream a text.
 * @param {string} query The link of the text: `toQuery` in link.js.
 * @param {number} start Index of the first token to get.
 * @param {number} end Index after the last.
 * @param {number} vocabularySize Of the model.
 * @param {AbortSignal} [signal] Ends it.
 * @yields {object} First {query, prompt, unknown_chars, remarks}, then {tokens, tokens_per_second}: each token has id, text,
 *   bits (its surprisal) and distribution (see codec.js); the speed is that of the server so far.
 */
export async function* streamText(query, start, end, vocabularySize, signal) {
  const response = await post("generate", { query, start, end }, signal);
  for await (const line of readLines(response.body)) {
    const { error, ids, texts, bits, distributions, ...head } = JSON.parse(line);
    if (error) throw new VisitorError(error);
    if (!ids) {
      yield head;
      continue;
    }
    const decoded = decodeSteps(distributions, ids.length, vocabularySize);
    yield { ...head, tokens: ids.map((id, i) => ({ id, text: texts[i], bits: bits[i], distribution: decoded[i] })) };
  }
}

/**
 * Open a model from the Hub.
 * @param {string} id "user/repo" or "user/repo@commit".
 * @param {(message: string) => void} onProgress Called with sentences.
 * @returns {Promise<string>} Its id, with the commit. Raises VisitorError if it cannot be opened.
 */
export const openModel = async (id, onProgress) => {
  const response = await post("open", { id });
  let opened;
  for await (const line of readLines(response.body)) {
    const answer = JSON.parse(line);
    if (answer.error) throw new VisitorError(answer.error);
    if (answer.message) onProgress(answer.message);
    opened = answer.id;
  }
  if (!opened) throw new VisitorError(UNREACHABLE);
  return opened;
};

/** The lines of a stream of bytes. Raises VisitorError if it breaks. */
export async function* readLines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  try {
    while (!ended) {
      const { done, value } = await reader.read();
      ended = done;
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      yield* lines;
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new VisitorError(UNREACHABLE);
  } finally {
    if (!ended) reader.cancel().catch(() => {}); // the caller stopped reading
  }
}
