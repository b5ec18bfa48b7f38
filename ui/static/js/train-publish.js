/** The form that publishes a model of this visit on the Hub (ui/tabs/train.py); Gradio draws the rest of it. */
import { currentVisit, fetchModels, onModels } from "./api.js";
import { create } from "./dom.js";

const select = create("select");

/** Draw the choice of the model. The form is hidden while there is none. */
export const mount = async (element) => {
  element.classList.add("reading-tab");
  element.replaceChildren(create("label", { class: "field" }, "Model", select));
  onModels(draw);
  draw((await fetchModels()).models);
};

const draw = (models) => {
  const before = select.value;
  const own = models.filter(({ is_own: isOwn }) => isOwn);
  select.replaceChildren(...own.map(({ id, label }) => create("option", { value: id }, label)));
  if (own.some(({ id }) => id === before)) select.value = before;
  document.getElementById("publish").hidden = own.length === 0;
};

/** The values for the server: the name on the Hub, the model, and the visit that it belongs to. */
export const takeValues = (repo) => [repo, select.value, currentVisit() ?? ""];
