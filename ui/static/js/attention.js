/** Attention weights as page/inspect sends them (ui/inspection.py), and what the page shows of them. */

/**
 * Decode the weights of all heads.
 * @param {string} base64 A byte 255 * sqrt(weight) for each [layer][head][token].
 * @param {number} layers
 * @param {number} heads In each layer.
 * @returns {Float32Array[][]} weights[layer][head], one number for each token that the model sees; they sum to about 1.
 */
export function decodeAttention(base64, layers, heads) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const seen = bytes.length / (layers * heads);
  const weightsAt = (start) => Float32Array.from(bytes.subarray(start, start + seen), (byte) => (byte / 255) ** 2);
  return Array.from({ length: layers }, (_, layer) =>
    Array.from({ length: heads }, (_, head) => weightsAt((layer * heads + head) * seen)),
  );
}

/** The mean of all heads of all layers. */
export function meanAttention(weights) {
  const heads = weights.flat();
  return Float32Array.from(heads[0], (_, i) => heads.reduce((sum, head) => sum + head[i], 0) / heads.length);
}

/**
 * The places with the largest weights, the largest first.
 * @param {Float32Array} weights
 * @param {number} count
 * @returns {{index: number, weight: number}[]} Fewer if others have no weight.
 */
export function strongest(weights, count) {
  return Array.from(weights, (weight, index) => ({ index, weight }))
    .filter(({ weight }) => weight > 0)
    .sort((a, b) => b.weight - a.weight)
    .slice(0, count);
}

/**
 * The weights as a row of bars, for the `d` of an SVG path with the viewBox "0 0 <bars> 1". A bar shows the largest of its
 * weights; its height is the square root, so that small weights can be seen.
 * @param {Float32Array} weights
 * @param {number} bars
 */
export function barsPath(weights, bars) {
  const heights = new Float32Array(bars);
  weights.forEach((weight, i) => {
    const bar = Math.floor((i * bars) / weights.length);
    heights[bar] = Math.max(heights[bar], Math.sqrt(weight));
  });
  return Array.from(heights, (height, i) => (height > 0 ? `M${i} 1v${-height.toFixed(3)}h1V1z` : "")).join("");
}
