/** A training run as the browser knows it, from the events of the server (train/worker.py). */

/**
 * @typedef {object} Run
 * @property {object} choices What was asked for: kind, size, tokenizer, dropout, seconds.
 * @property {number} text Which of the texts of this page it learns, to compare runs on the same text only.
 * @property {number} budget Seconds.
 * @property {number} [duration] Seconds that the training takes: less than the budget, if counting the text took long.
 * @property {"waiting" | "running" | "ended"} phase
 * @property {{before: number, seconds: number} | null} queue
 * @property {{uniform: number, bigram: number, ngram: number, order: number} | null} baselines In nats a character, as all losses.
 * @property {object | null} start The model: parameters, config, command, reason.
 * @property {{seconds: number, train: number}[]} steps
 * @property {{seconds: number, train: number, held_out: number}[]} evaluations
 * @property {object | null} latest The last step.
 * @property {string | null} sample
 * @property {boolean} isMemorizing
 * @property {object | null} end The models, the winner and the verdict.
 */

/**
 * @param {object} choices
 * @param {number} text
 * @returns {Run}
 */
export const newRun = (choices, text) => ({
  choices,
  text,
  budget: choices.seconds,
  phase: "waiting",
  queue: null,
  baselines: null,
  start: null,
  steps: [],
  evaluations: [],
  latest: null,
  sample: null,
  isMemorizing: false,
  end: null,
});

const HANDLERS = {
  queue: (_run, event) => ({ queue: event }),
  baselines: (_run, event) => ({ baselines: event, phase: "running", queue: null }),
  start: (_run, event) => ({ start: event, phase: "running", queue: null }),
  step: ({ steps, budget, duration: before }, event) => {
    const { progress, seconds_left: left, loss } = event;
    const duration = progress < 1 ? left / (1 - progress) : (before ?? budget);
    return { steps: [...steps, { seconds: progress * duration, train: loss }], latest: event, duration };
  },
  evaluation: ({ evaluations, isMemorizing }, event) => ({
    evaluations: [...evaluations, event],
    isMemorizing: isMemorizing || event.memorizing,
  }),
  sample: (_run, event) => ({ sample: event }),
  end: (_run, event) => ({ end: event, phase: "ended" }),
};

/** The run after an event; an event of an unknown kind changes nothing. */
export const apply = (run, event) => ({ ...run, ...HANDLERS[event.event]?.(run, event) });

/** The moment of the best loss on unseen text, which is the model that is kept. */
export const bestOf = ({ evaluations }) =>
  evaluations.reduce((best, each) => (best === null || each.held_out < best.held_out ? each : best), null);
