/**
 * What the page does in the visitor's browser. The `js=` of a Gradio event calls these functions with the values of the
 * event's inputs (`ui/assets.py`: `js_call`); what they return becomes the values of its outputs.
 *
 * A classic script, so that it has run before Gradio draws the page; tests/js/ loads the same file under Node.
 */
globalThis.bigramToGpt = (() => {
  const COPIED_MS = 1500; // how long a button says that it has copied

  /** The page's address without its query and its last slash. */
  const address = () => location.origin + location.pathname.replace(/\/$/, "");

  /** Put text on the clipboard, or show it to be copied by hand: a page without https has no clipboard. */
  const copy = async (buttonId, text) => {
    const button = document.getElementById(buttonId);
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      prompt("Copy this:", text);
      return;
    }
    button.dataset.label ??= button.textContent;
    button.textContent = "Copied";
    setTimeout(() => {
      button.textContent = button.dataset.label;
    }, COPIED_MS);
  };

  const showInAddress = (query) => history.replaceState(null, "", `?${query}`);

  return {
    /** A constant, for a button that fills in an example. */
    value: (constant) => constant,

    /** Copy the link of the text on the screen. */
    copyLink: (query) => copy("copy-link", `${location.origin}${location.pathname}?${query}`),

    /** Copy the program that writes the text on the screen. */
    copyPython: (program) => copy("copy-python", program),

    /** Show the link of the text on the screen in the browser's address bar. */
    showInAddress,

    /**
     * The same, but only if the page was opened by a link to a text.
     * @param {string[]} names The parameters of such links.
     * @param {string} query
     */
    completeLink: (names, query) => {
      const opened = new URLSearchParams(location.search);
      if (names.some((name) => opened.has(name))) showInAddress(query);
    },

    /** The seed of a link. */
    seedOf: (query) => Number(new URLSearchParams(query).get("seed")),

    /** What the programs of the panel "Use the weights" are made from: the link of the text, and the page's address. */
    programInputs: (query) => [query, address()],

    /**
     * Which of Generate, Stop and Continue can be pressed.
     * @param {string} html The text on the screen; the class of its first element is "output", "output running" or
     *   "output full".
     */
    buttonStates: (html) => {
      const running = html.startsWith('<div class="output running"');
      const full = html.startsWith('<div class="output full"');
      return [!running, running, !running && !full].map((interactive) => ({ interactive, __type__: "update" }));
    },

    /**
     * Describe the model that was picked, and exchange an example prompt for one that suits it: a line of a play says
     * nothing to a model of names. What a visitor typed stays.
     * @param {{descriptions: Object<string, string>, prompts: Object<string, string>, examples: string[]}} models
     * @param {string} id
     * @param {string} prompt
     * @returns {[string, string]} The description as HTML, and the prompt.
     */
    selectModel: (models, id, prompt) => {
      const suited = models.prompts[id]; // "": a model of lines, which starts without a prompt
      document.getElementById("chips").style.display = suited === "" ? "none" : "";
      const exchange = suited !== undefined && !!prompt !== !!suited && models.examples.includes(prompt);
      return [models.descriptions[id] ?? "", exchange ? suited : prompt];
    },

    /** The lines and the distance that the tab Morph shows first for a model, in the order of its inputs. */
    morphExamples: (examples, id) => {
      const [from, to, distance] = examples[id];
      return [from, to, from, distance];
    },
  };
})();
