// ui/static/page.js under Node: node --test tests/js/*.test.js
const assert = require("node:assert/strict");
const { afterEach, beforeEach, mock, test } = require("node:test");

require("../../ui/static/page.js");

const { bigramToGpt } = globalThis;
const BROWSER = ["document", "history", "location", "navigator", "prompt"];
const saved = new Map(BROWSER.map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]));
let elements, addresses, clipboard, shown;

/** Put a small browser in the place of the global names that the script uses. */
const stub = (name, value) => Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });

beforeEach(() => {
  [elements, addresses, clipboard, shown] = [{}, [], [], []];
  for (const id of ["chips", "copy-link", "copy-python"]) elements[id] = { style: {}, dataset: {}, textContent: id };
  stub("document", { getElementById: (id) => elements[id] });
  stub("history", { replaceState: (_state, _title, address) => addresses.push(address) });
  stub("location", { origin: "http://host:7860", pathname: "/page/", search: "" });
  stub("navigator", { clipboard: { writeText: async (text) => clipboard.push(text) } });
  stub("prompt", (_message, text) => shown.push(text));
});

afterEach(() => {
  mock.timers.reset();
  for (const [name, descriptor] of saved) {
    if (descriptor) Object.defineProperty(globalThis, name, descriptor);
    else delete globalThis[name];
  }
});

test("copyLink copies the whole address and says so for a moment", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  await bigramToGpt.copyLink("model=x&seed=1");
  await bigramToGpt.copyLink("model=x&seed=2"); // again, while the button still says "Copied"
  assert.deepEqual(clipboard, ["http://host:7860/page/?model=x&seed=1", "http://host:7860/page/?model=x&seed=2"]);
  assert.equal(elements["copy-link"].textContent, "Copied");
  mock.timers.tick(1500);
  assert.equal(elements["copy-link"].textContent, "copy-link");
});

for (const [reason, navigator] of [
  ["without a clipboard", {}],
  ["where the clipboard is refused", { clipboard: { writeText: async () => Promise.reject(new Error("denied")) } }],
]) {
  test(`copyPython shows the text to be copied by hand ${reason}`, async () => {
    stub("navigator", navigator);
    await bigramToGpt.copyPython("print(1)");
    assert.deepEqual(shown, ["print(1)"]);
    assert.equal(elements["copy-python"].textContent, "copy-python");
  });
}

test("completeLink changes the address only of a page that a link opened", () => {
  for (const search of ["", "?__theme=dark"]) {
    location.search = search;
    bigramToGpt.completeLink(["model", "seed"], "seed=1");
  }
  assert.deepEqual(addresses, []);
  location.search = "?__theme=dark&seed=1";
  bigramToGpt.completeLink(["model", "seed"], "model=x&seed=1");
  assert.deepEqual(addresses, ["?model=x&seed=1"]);
});

test("showInAddress shows any link", () => {
  bigramToGpt.showInAddress("prompt=a%26b");
  assert.deepEqual(addresses, ["?prompt=a%26b"]);
});

test("seedOf reads the seed of a link", () => {
  assert.equal(bigramToGpt.seedOf("model=x&seed=4294967295&length=3"), 4294967295);
});

test("programInputs adds the page's address without its last slash", () => {
  assert.deepEqual(bigramToGpt.programInputs("seed=1"), ["seed=1", "http://host:7860/page"]);
});

test("buttonStates follow the state of the text", () => {
  const states = (html) => bigramToGpt.buttonStates(html).map((update) => update.interactive);
  assert.deepEqual(states('<div class="output" role="region">x</div>'), [true, false, true]);
  assert.deepEqual(states('<div class="output running" role="region">x</div>'), [false, true, false]);
  assert.deepEqual(states('<div class="output full" role="region">x</div>'), [true, false, false]);
  assert.deepEqual(states('<div class="output"><div class="output full"></div></div>'), [true, false, true]);
  assert.equal(bigramToGpt.buttonStates("")[0].__type__, "update");
});

test("selectModel exchanges an example for one that suits, and keeps what was typed", () => {
  const models = {
    descriptions: { play: "<p>play</p>", names: "<p>names</p>" },
    prompts: { play: "ROMEO:", names: "" },
    examples: ["ROMEO:", "To be", ""],
  };
  const select = (id, prompt) => bigramToGpt.selectModel(models, id, prompt);
  assert.deepEqual(select("names", "To be"), ["<p>names</p>", ""]);
  assert.equal(elements.chips.style.display, "none");
  assert.deepEqual(select("play", ""), ["<p>play</p>", "ROMEO:"]);
  assert.equal(elements.chips.style.display, "");
  assert.deepEqual(select("play", "To be"), ["<p>play</p>", "To be"]);
  assert.deepEqual(select("names", "emma"), ["<p>names</p>", "emma"]);
  assert.deepEqual(select("user/model@0", "To be"), ["", "To be"]); // from the Hub: nothing is known of it
});

test("morphExamples are in the order of the inputs", () => {
  assert.deepEqual(bigramToGpt.morphExamples({ x: ["emma", "zoe", 0.6] }, "x"), ["emma", "zoe", "emma", 0.6]);
});

test("value gives its constant", () => {
  assert.equal(bigramToGpt.value("ROMEO:"), "ROMEO:");
});
