/** The loss of a training run over its steps, as an SVG: both axes labelled, the steps on a logarithmic scale. */

const [WIDTH, HEIGHT] = [640, 260];
const [LEFT, RIGHT, TOP, BOTTOM] = [44, 14, 12, 54];

const svg = (tag, attributes = {}, text = "") => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
};

/** Powers of ten up to a number of steps. */
export const stepTicks = (last) => Array.from({ length: Math.floor(Math.log10(Math.max(1, last))) + 1 }, (_, i) => 10 ** i);

/** The curves of a run: all its points and evaluations, in the order of their steps; of one step, the evaluation counts. */
export const mergeCurve = (points, curve) => {
  const byStep = new Map([...points, ...curve].map((point) => [point.step, point]));
  return [...byStep.values()].sort((a, b) => a.step - b.step);
};

/**
 * Draw a loss curve into an element.
 * @param {HTMLElement} element
 * @param {object} run
 * @param {object[]} run.points The replay points: step, train and held_out in bits per character.
 * @param {object[]} run.curve The evaluations of the run: the same.
 * @param {number} run.uniform The loss of guessing.
 * @param {number} run.bigram The loss of a counted bigram.
 * @returns {{mark: (index: number) => void}} Marks a replay point.
 */
export const drawCurve = (element, { points, curve, uniform, bigram }) => {
  const merged = mergeCurve(points, curve);
  const last = merged.at(-1).step;
  const losses = merged.flatMap(({ train, held_out: heldOut }) => [train ?? heldOut, heldOut]);
  const [lowest, highest] = [Math.floor(Math.min(...losses, bigram)), Math.ceil(Math.max(...losses, uniform))];
  const x = (step) => LEFT + ((WIDTH - LEFT - RIGHT) * Math.log1p(step)) / Math.log1p(Math.max(1, last));
  const y = (bits) => TOP + ((HEIGHT - TOP - BOTTOM) * (highest - bits)) / (highest - lowest);
  const path = (name) =>
    merged
      .filter((point) => point[name] !== null)
      .map((point, i) => `${i ? "L" : "M"}${x(point.step).toFixed(1)} ${y(point[name]).toFixed(1)}`)
      .join("");

  const image = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const best = Math.min(...merged.map((point) => point.held_out));
  image.setAttribute(
    "aria-label",
    `Loss curve: bits per character on unseen text fall from ${merged[0].held_out.toFixed(2)} to ${best.toFixed(2)} ` +
      `in ${last.toLocaleString("en-US")} steps; a counted bigram has ${bigram.toFixed(2)}.`,
  );
  for (let bits = lowest; bits <= highest; bits++) {
    image.append(
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(bits), y2: y(bits) }),
      svg("text", { x: LEFT - 8, y: y(bits) + 4, "text-anchor": "end" }, String(bits)),
    );
  }
  for (const step of [0, ...stepTicks(last)]) {
    const label = step.toLocaleString("en-US");
    image.append(svg("text", { x: x(step), y: HEIGHT - BOTTOM + 22, "text-anchor": "middle" }, label));
  }
  const marker = svg("line", { class: "marker", y1: TOP, y2: HEIGHT - BOTTOM });
  const dot = svg("circle", { class: "dot", r: 5 });
  image.append(
    svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "steps of training"),
    svg("line", { class: "bigram", x1: LEFT, x2: WIDTH - RIGHT, y1: y(bigram), y2: y(bigram) }),
    svg("text", { class: "bigram-label", x: LEFT + 6, y: y(bigram) + 15 }, "a counted bigram"),
    svg("path", { class: "train", d: path("train") }),
    svg("path", { class: "held-out", d: path("held_out") }),
    marker,
    dot,
  );
  const caption = document.createElement("p");
  const keys = [
    ["held-out-key", "on unseen text"],
    ["train-key", "on the text it learns from"],
  ].map(([className, text]) => {
    const key = document.createElement("span");
    key.className = className;
    key.textContent = text;
    return key;
  });
  caption.append("Bits per character: ", ...keys);
  element.replaceChildren(caption, image);
  return {
    mark(index) {
      const { step, held_out: heldOut } = merged.find((point) => point.step === points[index].step);
      for (const name of ["x1", "x2"]) marker.setAttribute(name, x(step));
      dot.setAttribute("cx", x(step));
      dot.setAttribute("cy", y(heldOut));
    },
  };
};
