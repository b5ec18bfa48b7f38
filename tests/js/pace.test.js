import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { createPacer } from "../../ui/static/js/pace.js";

let time, timers, batches, ends;

/** A clock that stands still until `advance`. */
const clock = {
  now: () => time,
  setTimeout: (callback, ms) => {
    const timer = { callback, at: time + ms };
    timers.push(timer);
    return timer;
  },
  clearTimeout: (timer) => {
    timers = timers.filter((other) => other !== timer);
  },
};

function advance(ms) {
  const end = time + ms;
  for (;;) {
    const next = timers.filter(({ at }) => at <= end + 1e-6).sort((a, b) => a.at - b.at)[0];
    if (!next) break;
    timers = timers.filter((timer) => timer !== next);
    time = Math.max(time, next.at);
    next.callback();
  }
  time = end;
}

const numbers = (count, start = 0) => Array.from({ length: count }, (_, i) => start + i);
const create = (pace) =>
  createPacer({
    show: (tokens) => batches.push(tokens),
    onEnd: () => {
      ends += 1;
    },
    pace,
    clock,
  });

beforeEach(() => {
  [time, timers, batches, ends] = [1000, [], [], 0];
});

test("watch shows the first token at once, then 30 a second, one by one", () => {
  const pacer = create("watch");
  pacer.push(numbers(300));
  pacer.end();
  advance(0);
  assert.deepEqual(batches, [[0]]);
  advance(1000);
  assert.deepEqual(batches.flat(), numbers(31));
  assert.ok(batches.every((batch) => batch.length === 1));
  assert.equal(ends, 0);
  advance(10_000);
  assert.deepEqual(batches.flat(), numbers(300));
  assert.equal(ends, 1);
  assert.equal(timers.length, 0);
});

test("watch shows all that is due after a late timer, but saves no time in which nothing waited", () => {
  const pacer = create("watch");
  pacer.push(numbers(100));
  advance(0);
  time += 500; // the timer fires late
  advance(0);
  assert.equal(batches.flat().length, 16); // 15 intervals of 33 ms
  advance(60_000);
  assert.equal(batches.flat().length, 100);
  pacer.push(numbers(10, 100));
  advance(0);
  assert.equal(batches.flat().length, 101);
});

test("fast shows what arrived in at most 10 batches a second", () => {
  const pacer = create("fast");
  for (let i = 0; i < 100; i++) {
    pacer.push(numbers(10, 10 * i));
    advance(10);
  }
  pacer.end();
  advance(100);
  assert.deepEqual(batches.flat(), numbers(1000));
  assert.ok(batches.length <= 11, `${batches.length} batches`);
  assert.equal(ends, 1);
});

test("step shows one when asked, and says when none waits", () => {
  const pacer = create("step");
  assert.equal(pacer.step(), false);
  pacer.push(numbers(2));
  pacer.end();
  advance(1000);
  assert.deepEqual(batches, []);
  assert.equal(pacer.step(), true);
  assert.deepEqual([batches.flat(), ends], [[0], 0]);
  assert.equal(pacer.step(), true);
  assert.deepEqual([batches.flat(), ends], [[0, 1], 1]);
  assert.equal(pacer.step(), false);
  assert.equal(ends, 1);
});

test("stop drops what was not shown, and nothing comes after it", () => {
  const pacer = create("watch");
  pacer.push(numbers(100));
  pacer.end();
  advance(100);
  const shown = batches.flat().length;
  assert.ok(shown > 0 && shown < 100);
  pacer.stop();
  advance(10_000);
  assert.equal(batches.flat().length, shown);
  assert.equal(ends, 0);
  pacer.push([7]); // another text
  pacer.end();
  advance(0);
  assert.deepEqual([batches.at(-1), ends], [[7], 1]);
});

test("the pace can change while tokens wait", () => {
  const pacer = create("step");
  pacer.push(numbers(100));
  pacer.setPace("watch");
  advance(0);
  assert.deepEqual(batches.flat(), [0]);
  advance(100);
  assert.deepEqual(batches.flat(), numbers(4));
  pacer.setPace("step");
  advance(1000);
  assert.deepEqual(batches.flat(), numbers(4));
  pacer.setPace("fast");
  advance(0);
  assert.deepEqual(batches.flat(), numbers(100));
  assert.equal(batches.length, 5);
});
