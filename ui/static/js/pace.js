/** Shows tokens, which arrive faster than anyone can read, at a pace that suits a visitor. */

/** step: one when asked for; watch: about 30 a second; fast: as they arrive, in at most 10 batches a second. */
export const PACES = Object.freeze(["step", "watch", "fast"]);
const INTERVAL_MS = { watch: 1000 / 30, fast: 100 };

const CLOCK = {
  now: () => performance.now(),
  setTimeout: (callback, ms) => setTimeout(callback, ms),
  clearTimeout: (id) => clearTimeout(id),
};

/**
 * @param {object} options
 * @param {(tokens: object[]) => void} options.show Called with the next tokens to show.
 * @param {() => void} options.onEnd Called when all are shown, after `end`.
 * @param {string} [options.pace] One of PACES.
 * @param {object} [options.clock] In tests.
 */
export function createPacer({ show, onEnd, pace = "watch", clock = CLOCK }) {
  let waiting = [];
  let hasEnded = false; // no more tokens will arrive
  let timer = null;
  let shownAt = Number.NEGATIVE_INFINITY; // when the last ones were due

  /** Show the next `count` tokens, or as many as there are. */
  function reveal(count) {
    const next = waiting.slice(0, count);
    waiting = waiting.slice(count);
    if (next.length > 0) show(next);
    if (hasEnded && waiting.length === 0) {
      hasEnded = false;
      onEnd();
    }
  }

  function tick() {
    timer = null;
    // A timer can be late, and a hidden tab has one tick a second: show all that are due.
    const due = Math.max(1, Math.floor((clock.now() - shownAt) / INTERVAL_MS[pace]));
    shownAt += due * INTERVAL_MS[pace];
    reveal(pace === "fast" ? waiting.length : due);
    schedule();
  }

  /** Wait for the next tick, if there is something to show. */
  function schedule() {
    if (timer !== null || waiting.length === 0 || pace === "step") return;
    timer = clock.setTimeout(tick, Math.max(0, shownAt + INTERVAL_MS[pace] - clock.now()));
  }

  /** Nothing is due for the time in which nothing waited. */
  function restart() {
    if (pace !== "step") shownAt = Math.max(shownAt, clock.now() - INTERVAL_MS[pace]);
  }

  function cancel() {
    if (timer !== null) clock.clearTimeout(timer);
    timer = null;
  }

  return {
    /** Whether tokens wait to be shown. */
    get isWaiting() {
      return waiting.length > 0;
    },

    /** More tokens arrived. */
    push(tokens) {
      if (waiting.length === 0) restart();
      waiting.push(...tokens);
      schedule();
    },

    /** All tokens arrived. */
    end() {
      hasEnded = true;
      if (waiting.length === 0) reveal(0);
    },

    /** Show the next token. Returns false if none waits. */
    step() {
      if (waiting.length === 0) return false;
      reveal(1);
      return true;
    },

    /** Drop the tokens that are not shown yet. */
    stop() {
      cancel();
      waiting = [];
      hasEnded = false;
    },

    setPace(name) {
      cancel();
      pace = name;
      restart();
      schedule();
    },
  };
}
