/** The page's own endpoints (ui/routes.py). */
import { decodeSteps } from "./codec.js";

/** Something went wrong that the visitor should read about; its message is a sentence. */
export class VisitorError extends Error {}

const UNREACHABLE = "The server does not answer. It may be restarting; please try again in a moment.";

const VISIT = "visit"; // in the session storage of this browser tab
const PING_MS = 5 * 60_000; // the server ends a visit after 15 minutes without a request

let visit; // what names this visit to the server, which keeps a visitor's text and models for it; undefined before the first text
let pings; // the timer

/** The session storage; undefined where the browser forbids it, for instance in another site's frame. */
const storage = () => {
  try {
    return sessionStorage;
  } catch {
    return undefined;
  }
};

/** What names this visit to the server; undefined before it has begun. */
export const currentVisit = () => {
  const stored = visit ?? storage()?.getItem(VISIT);
  if (stored && visit === undefined) keepVisit(stored);
  return visit;
};

/** The server knows this visit by an id: send it with each request, and one now and then. */
const keepVisit = (id) => {
  visit = id;
  storage()?.setItem(VISIT, id);
  clearInterval(pings);
  pings = setInterval(() => post("visit/ping", {}).catch(() => {}), PING_MS); // the next request says what is wrong
};

const request = async (path, { headers, ...options } = {}) => {
  let response;
  const own = currentVisit() && { "X-Visit": currentVisit() };
  try {
    response = await fetch(new URL(`page/${path}`, document.baseURI), { ...options, headers: { ...headers, ...own } });
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
const modelListeners = new Set();

/** Call a function with the models whenever the page offers others. */
export const onModels = (listener) => modelListeners.add(listener);

/**
 * The models that the page offers, in the order of the server, which sorts them by text and from worst to best.
 * @param {boolean} [again] Ask the server again, after a model was opened.
 * @returns {Promise<{default: string, models: object[]}>} See `describe` in ui/routes.py.
 */
export const fetchModels = (again = false) => {
  if (!models || again) {
    models = fetchJson("models");
    models.then(
      (answer) => {
        if (again) for (const listener of modelListeners) listener(answer.models);
      },
      () => {
        models = undefined; // ask again next time
      },
    );
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
 * Stream how a masked diffusion model reveals a text.
 * @param {object} body See `unmask` in ui/all_at_once.py.
 * @param {number} vocabularySize Of the model.
 * @param {AbortSignal} [signal] Ends it.
 * @yields {object} First {canvas, steps, seed, remarks}, then steps {positions, ids, distributions, seconds}.
 */
export async function* streamUnmasking(body, vocabularySize, signal) {
  const response = await post("diffusion/unmask", body, signal);
  for await (const line of readLines(response.body)) {
    const { error, distributions, ...values } = JSON.parse(line);
    if (error) throw new VisitorError(error);
    yield distributions ? { ...values, distributions: decodeSteps(distributions, values.ids.length, vocabularySize) } : values;
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

/**
 * Hand the server a text to train on; the first one begins the visit.
 * @param {string} name What to call it.
 * @param {Blob} content
 * @param {AbortSignal} [signal]
 * @returns {Promise<object>} What it says of the text: see `TextReport` in train/text_report.py.
 */
export const uploadText = async (name, content, signal) => {
  const response = await request(`train/text?name=${encodeURIComponent(name)}`, { method: "POST", body: content, signal });
  const { visit: id, ...report } = await response.json();
  keepVisit(id);
  return report;
};

/**
 * Train a model on the text of this visit.
 * @param {object} choices See `run` in ui/training.py.
 * @param {AbortSignal} [signal] Ends the training, as leaving the page does; nothing is kept.
 * @yields {object} The events of train/worker.py, and {event: "queue", before, seconds} while others are trained.
 */
export async function* streamTraining(choices, signal) {
  const response = await post("train/run", choices, signal);
  for await (const line of readLines(response.body)) yield JSON.parse(line);
}

/** The folder of a model of this visit, as a .zip. */
export const fetchZip = async (id) => (await request(`train/zip/${encodeURIComponent(id)}`)).blob();

/** Delete the text and the models of this visit. */
export const endVisit = async () => {
  await post("visit/end", {});
  clearInterval(pings);
  visit = undefined;
  storage()?.removeItem(VISIT);
};

/** The lines of a stream of bytes. Raises VisitorError if it breaks. */
async function* readLines(body) {
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
