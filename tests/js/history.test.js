import assert from "node:assert/strict";
import { test } from "node:test";
import { createHistory } from "../../ui/static/js/history.js";

const shape = (nodes) => nodes.map(({ label, children }) => (children.length > 0 ? [label, shape(children)] : label));

test("branches are children of the text that they leave", () => {
  const history = createHistory();
  const a = history.add("A", "a");
  history.add("AB", "b", a);
  history.add("AC", "c", a);
  history.add("D", "d");
  assert.deepEqual(shape(history.roots), [["a", ["b", "c"]], "d"]);
  assert.equal(history.find((text) => text.startsWith("A")).label, "c");
  assert.equal(
    history.find((text) => text === "Z"),
    undefined,
  );
});

test("before and after follow the order in which the texts were written", () => {
  const history = createHistory();
  assert.deepEqual([history.current, history.before, history.after], [null, null, null]);
  const a = history.add("A", "a");
  history.add("B", "b");
  history.add("C", "c", a);
  assert.deepEqual([history.current.label, history.before.label, history.after], ["c", "b", null]);
  history.select(history.before);
  history.select(history.before);
  assert.deepEqual([history.current.label, history.before, history.after.label], ["a", null, "b"]);
});

test("the oldest text without branches is dropped, but never the current one", () => {
  const history = createHistory(3);
  const a = history.add("A", "a");
  history.add("B", "b", a);
  history.add("C", "c", a);
  history.add("D", "d");
  assert.deepEqual(shape(history.roots), [["a", ["c"]], "d"]); // b was the oldest leaf
  history.add("E", "e");
  assert.deepEqual(shape(history.roots), ["a", "d", "e"]);
  history.add("F", "f");
  assert.deepEqual(shape(history.roots), ["d", "e", "f"]);
  const single = createHistory(1);
  single.add("A", "a");
  single.add("B", "b");
  assert.deepEqual([single.length, single.current.label], [1, "b"]);
});
