import assert from "node:assert/strict";
import { test } from "node:test";
import * as link from "../../ui/static/js/link.js";

test("a link survives its way through the address", () => {
  const values = { model: "user/repo@0f", prompt: "a&b=c \n<é>", seed: 4294967295, branch: "12.45,40.3", tab: "inside", at: 0 };
  const query = link.toQuery(values);
  assert.deepEqual(link.fromQuery(`?${query}`), { ...values, seed: "4294967295", at: "0" });
  assert.equal(link.toQuery(link.fromQuery(query)), query);
});

test("unknown names are dropped, and an empty prompt is kept", () => {
  assert.deepEqual(link.fromQuery("?seed=1&evil=2&__theme=dark"), { seed: "1" });
  assert.equal(link.toQuery({ prompt: "", branch: "", seed: undefined, at: null }), "prompt=");
});

test("describesText tells a text from a view", () => {
  assert.deepEqual(["?seed=1", "?prompt=", "?tab=morph&at=3", "?__theme=dark", ""].map(link.describesText), [
    true,
    true,
    false,
    false,
    false,
  ]);
});

test("textKey is the same for a text and its continuation, and differs for a branch", () => {
  const key = link.textKey("model=x&prompt=a&seed=1&length=300&tab=inside&at=3");
  assert.equal(link.textKey("?seed=1&prompt=a&model=x&length=600"), key);
  assert.notEqual(link.textKey("model=x&prompt=a&seed=1&branch=3.4"), key);
});

test("parseBranch and formatBranch are inverse", () => {
  assert.deepEqual(link.parseBranch("12.45,40.3"), [
    [12, 45],
    [40, 3],
  ]);
  assert.equal(link.formatBranch(link.parseBranch("12.45,40.3")), "12.45,40.3");
  assert.deepEqual(link.parseBranch(undefined), []);
});

test("paramsOf takes what a link leaves out from the defaults", () => {
  assert.deepEqual(link.paramsOf({ temperature: "0", top_k: "5" }), { temperature: 0, topK: 5, topP: 1, minP: 0 });
  assert.deepEqual(link.paramsOf({}), { temperature: 0.8, topK: 0, topP: 1, minP: 0 });
});

test("updateAddress keeps the names that it does not get, and Gradio's theme", (t) => {
  const calls = [];
  const stub = (name, value) => {
    const saved = Object.getOwnPropertyDescriptor(globalThis, name);
    Object.defineProperty(globalThis, name, { value, configurable: true });
    t.after(() => (saved ? Object.defineProperty(globalThis, name, saved) : delete globalThis[name]));
  };
  stub("location", { pathname: "/page/", search: "?seed=1&top_k=5&tab=morph&__theme=dark" });
  stub("history", { replaceState: (...a) => calls.push(["replace", a[2]]), pushState: (...a) => calls.push(["push", a[2]]) });
  link.updateAddress({ tab: undefined });
  link.updateAddress({ ...link.NO_TEXT, seed: 2 }, true);
  location.search = "";
  link.updateAddress({ tab: undefined });
  assert.deepEqual(calls, [
    ["replace", "/page/?seed=1&top_k=5&__theme=dark"],
    ["push", "/page/?seed=2&tab=morph&__theme=dark"],
    ["replace", "/page/"],
  ]);
});

test("a comparison and the text of the tab Write do not mix in the address", () => {
  const replaced = [];
  globalThis.location = { search: "?model=a&prompt=x&at=3", pathname: "/" };
  globalThis.history = {
    replaceState: (_state, _title, url) => {
      replaced.push(url);
      globalThis.location.search = url.slice(1);
    },
  };
  const now = () => link.fromQuery(globalThis.location.search);
  link.updateAddress({ tab: "compare" });
  link.updateAddress({ tab: "compare", models: "b,c", prompt: "y", seed: 1, model: undefined });
  const comparison = { models: "b,c", prompt: "y", seed: "1", tab: "compare" };
  assert.deepEqual(now(), comparison);
  assert.ok(link.describesComparison(globalThis.location.search));
  assert.ok(!link.describesText(globalThis.location.search));
  link.updateAddress({ ...link.NO_TEXT, model: "a", prompt: "xz", length: 9 }); // the text of the tab Write has grown
  assert.deepEqual(now(), comparison);
  link.updateAddress({ tab: undefined }); // the tab Write is opened
  assert.deepEqual(now(), { model: "a", prompt: "xz", length: "9" });
  link.updateAddress({ tab: "compare" });
  link.updateAddress({ tab: "compare", model: "b", temperatures: "1", prompt: "y" });
  link.updateAddress({ tab: "score" });
  assert.deepEqual(now(), { model: "a", prompt: "xz", length: "9", tab: "score" });
});

test("a step of a lesson changes while a comparison is shown", async (t) => {
  const page = await import("../../ui/static/js/link.js?another-page"); // which keeps the text of the tab Write
  const location = { pathname: "/", search: "?tab=compare&models=a,b&seed=1&lesson=4.4" };
  Object.assign(globalThis, {
    location,
    history: {
      replaceState: (_state, _title, address) => {
        location.search = address.slice(1);
      },
    },
  });
  t.after(() => {
    delete globalThis.location;
    delete globalThis.history;
  });
  page.updateAddress({ lesson: "5" });
  assert.deepEqual(page.fromQuery(location.search), { tab: "compare", models: "a,b", seed: "1", lesson: "5" });
  page.updateAddress({ tab: "score", passage: "x" });
  assert.deepEqual(page.fromQuery(location.search), { tab: "score", passage: "x", lesson: "5" });
  page.updateAddress({ lesson: undefined });
  assert.deepEqual(page.fromQuery(location.search), { tab: "score", passage: "x" });
});
