// ui/static/js/bigram-training.js, against numbers worked by hand and against PyTorch: tests/bigram_training_vectors.py
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { BigramTrainer, logSoftmax, lossAndGradient } from "../../ui/static/js/bigram-training.js";

const vectors = JSON.parse(readFileSync(new URL("../data/bigram_training_vectors.json", import.meta.url)));
const COUNTS = [
  [0, 3, 1],
  [2, 0, 0],
  [1, 0, 5],
];

const isNear = (actual, expected, tolerance = 1e-12) =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `${actual} is not within ${tolerance} of ${expected}`);
const areNear = (rows, expected, tolerance) =>
  rows.forEach((row, i) => {
    assert.equal(row.length, expected[i].length);
    row.forEach((value, j) => {
      isNear(value, expected[i][j], tolerance);
    });
  });

test("logSoftmax of ln 1, ln 3 and ln 4, and of logits whose exponentials overflow", () => {
  areNear([logSoftmax(Float64Array.of(0, Math.log(3), Math.log(4)))], [[1 / 8, 3 / 8, 4 / 8].map(Math.log)]);
  areNear([logSoftmax(Float64Array.of(5000, 5000))], [[-Math.LN2, -Math.LN2]]);
});

test("one step by hand: two tokens, 3 of 4 times b after a, learning rate 2", () => {
  const trainer = new BigramTrainer(
    [
      [1, 3],
      [0, 0],
    ],
    { learningRate: 2 },
  );
  // Guess: 1/2 each. Loss: ln 2. Derivatives: (4 * 1/2 - 1) / 4 = 1/4 and (4 * 1/2 - 3) / 4 = -1/4. Step: -2 times that.
  isNear(trainer.step(), Math.LN2);
  areNear(trainer.logits, [
    [-0.5, 0.5],
    [0, 0],
  ]);
  const b = 1 / (1 + Math.exp(-1));
  areNear(trainer.probs(), [
    [1 - b, b],
    [0.5, 0.5],
  ]);
  isNear(trainer.loss(), -(Math.log(1 - b) + 3 * Math.log(b)) / 4);
});

test("a single pair pulls its own logit up and the others of its row down", () => {
  const batch = [
    [0, 1, 0],
    [0, 0, 0],
    [0, 0, 0],
  ];
  const { loss, gradient } = lossAndGradient(
    [0, 1, 2].map(() => new Float64Array(3)),
    batch,
  );
  isNear(loss, Math.log(3));
  areNear(gradient.slice(0, 1), [[1 / 3, -2 / 3, 1 / 3]]);
  assert.deepEqual(gradient.slice(1), [null, null]);
});

test("the gradient agrees with finite differences", () => {
  const logits = [
    [0.3, -1.2, 0.8],
    [2, 0, -0.5],
    [-0.1, 0.4, 0],
  ].map((row) => Float64Array.from(row));
  const { gradient } = lossAndGradient(logits, COUNTS);
  const h = 1e-5;
  for (const [last, row] of logits.entries()) {
    for (const next of row.keys()) {
      const lossAt = (value) => {
        const moved = logits.map((each) => each.slice());
        moved[last][next] = value;
        return lossAndGradient(moved, COUNTS).loss;
      };
      isNear(gradient[last][next], (lossAt(row[next] + h) - lossAt(row[next] - h)) / (2 * h), 1e-9);
    }
  }
});

test("losses, gradient and table agree with PyTorch's autograd and SGD", () => {
  const trainer = new BigramTrainer(vectors.counts, { learningRate: vectors.learning_rate });
  trainer.logits = vectors.start.map((row) => Float64Array.from(row));
  const { gradient } = lossAndGradient(trainer.logits, trainer.counts);
  const zeros = new Float64Array(4); // PyTorch stores zeros for a row that the batch lacks
  areNear(
    gradient.map((row) => row ?? zeros),
    vectors.gradient,
  );
  for (const loss of vectors.losses) isNear(trainer.step(), loss);
  areNear(trainer.logits, vectors.end);
});

test("training starts at ln V and ends at the counted table", () => {
  const trainer = new BigramTrainer(COUNTS, { learningRate: 5 });
  isNear(trainer.loss(), Math.log(3));
  // By hand: 4 pairs of 3/4 and 1/4, 2 certain ones, 6 of 1/6 and 5/6.
  const counted = -(3 * Math.log(3 / 4) + Math.log(1 / 4) + Math.log(1 / 6) + 5 * Math.log(5 / 6)) / 12;
  isNear(trainer.countedLoss(), counted);
  for (let i = 0; i < 3000; i++) trainer.step();
  assert.ok(trainer.loss() > counted);
  isNear(trainer.loss(), counted, 1e-3);
  areNear(trainer.probs(), trainer.countedProbs, 1e-3);
});

test("random batches lead to the counted table as well, the larger the closer", () => {
  const gap = (batchSize) => {
    const trainer = new BigramTrainer(COUNTS, { batchSize, learningRate: 1, seed: 7 });
    let sum = 0;
    for (let i = 0; i < 2000; i++) {
      trainer.step();
      if (i >= 1000) sum += trainer.loss() - trainer.countedLoss();
    }
    return sum / 1000;
  };
  const [small, large] = [gap(1), gap(128)];
  assert.ok(large < 0.01, `${large}`);
  assert.ok(small > 3 * large, `${small} and ${large}`);
});

test("a batch has its size, and pairs as often as the text has them", () => {
  const trainer = new BigramTrainer(COUNTS, { batchSize: 12_000, seed: 3 });
  const batch = trainer.drawBatch();
  assert.equal(
    batch.reduce((sum, row) => row.reduce((a, b) => a + b, sum), 0),
    12_000,
  );
  areNear(
    batch,
    COUNTS.map((row) => row.map((count) => 1000 * count)),
    150, // about 5 standard deviations
  );
});

test("every position of the text belongs to the cell of its pair", () => {
  const trainer = new BigramTrainer(COUNTS);
  const cells = Array.from({ length: trainer.pairs }, (_, position) => trainer.cellAt(position));
  assert.deepEqual(cells, [1, 1, 1, 2, 3, 3, 6, 8, 8, 8, 8, 8]);
});

test("the same seed gives the same training, and reset starts it again", () => {
  const train = (trainer) => Array.from({ length: 20 }, () => trainer.step());
  const trainer = new BigramTrainer(COUNTS, { batchSize: 2, seed: 5 });
  const losses = train(trainer);
  assert.deepEqual(train(new BigramTrainer(COUNTS, { batchSize: 2, seed: 5 })), losses);
  assert.notDeepEqual(train(new BigramTrainer(COUNTS, { batchSize: 2, seed: 6 })), losses);
  assert.equal(trainer.steps, 20);
  trainer.reset();
  isNear(trainer.loss(), Math.log(3));
  assert.deepEqual(train(trainer), losses);
});

test("a token that nothing follows keeps its uniform row and costs nothing", () => {
  const trainer = new BigramTrainer(vectors.counts, { learningRate: 3 });
  for (let i = 0; i < 10; i++) trainer.step();
  areNear([trainer.countedProbs[2], trainer.probs()[2]], [Array(4).fill(1 / 4), Array(4).fill(1 / 4)]);
});

test("the largest difference is where most pairs of the text are guessed wrongly", () => {
  const trainer = new BigramTrainer(COUNTS);
  // Times too often or too rarely: after 2, |6 * 1/3 - 5| = 3; after 0, |4 * 1/3 - 3| = 1.67; after 1, |2 * 1/3 - 2| = 1.33.
  assert.deepEqual(trainer.largestDifference(), { last: 2, next: 2, pairs: 3 });
  trainer.logits[2].set([0, -100, Math.log(5)]);
  const { last, next, pairs } = trainer.largestDifference();
  assert.deepEqual([last, next], [0, 1]);
  isNear(pairs, 5 / 3);
});
