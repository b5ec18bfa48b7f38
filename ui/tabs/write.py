"""The tab Write: pick a model, type a prompt, watch it write, and see why."""

from typing import Any

import gradio as gr

from gpt import SamplingParams
from gpt.sampling import MAX_SEED
from ui import hub_panel
from ui.assets import js_call, mount
from ui.model_registry import list_models
from ui.schema import MAX_PROMPT_CHARS, MAX_TEMPERATURE
from ui.session import MAX_RUN_TOKENS

# By text; the first is what the prompt becomes when a visitor goes to models of the text.
EXAMPLES = {
    "shakespeare": ["ROMEO:", "To be, or not to be", "My kingdom for a", "Once upon a time"],
    "names": ["", "a", "jo", "mar", "xav"],
}
DEFAULTS = SamplingParams()

# In the order in which the script gets and sets them (SETTINGS in write.js).
CONTROLS = ("prompt", "length", "temperature", "top_k", "top_p", "min_p", "seed", "locked")


def build(page: gr.Blocks) -> None:
    """Lay out the tab. What the text and its explanation show is drawn by `ui/static/js/write.js`.

    Args:
        page: The page, for its load event.
    """
    parts: dict[str, Any] = {}
    with gr.Column(elem_id="write"):
        with gr.Column(elem_id="controls"):
            parts["prompt"] = gr.Textbox(
                label="Prompt", lines=2, max_lines=8, max_length=MAX_PROMPT_CHARS, elem_id="prompt",
                info="The model continues it. Ctrl + Enter generates.",
            )  # fmt: skip
            gr.HTML("", js_on_load=mount("examples", EXAMPLES), apply_default_css=False, elem_id="chips")
            with gr.Row(elem_id="buttons"):
                generate = gr.Button("Generate", variant="primary", elem_id="generate")
                stop = gr.Button("Stop", elem_id="stop")
                continue_ = gr.Button("Continue", elem_id="continue")
        with gr.Column(elem_id="output"):
            gr.HTML("", js_on_load=mount("write"), elem_id="text")
            gr.HTML("", js_on_load=mount("programs"), apply_default_css=False, elem_id="use")
        with gr.Column(elem_id="choice"):
            gr.HTML("", js_on_load=mount("picker"), apply_default_css=False, elem_id="models")
            parts["temperature"] = gr.Slider(
                0, MAX_TEMPERATURE, DEFAULTS.temperature, step=0.05, label="Temperature",
                info="0 = always the most likely character, 2 = wild", elem_id="temperature",
            )  # fmt: skip
        with gr.Column(elem_id="settings"):
            parts["length"] = gr.Slider(
                1, MAX_RUN_TOKENS, DEFAULTS.max_new_tokens, step=1, label="Length",
                info="How many characters to write", elem_id="length",
            )  # fmt: skip
            with gr.Accordion("More", open=False, elem_id="more"):
                vocab_size = max(len(entry.lm.tokenizer) for entry in list_models())
                parts["top_k"] = gr.Slider(
                    0, vocab_size, 0, step=1, label="Top-k", info="Choose among the k best; 0 = off", elem_id="top-k"
                )
                parts["top_p"] = gr.Slider(
                    0.05, 1, 1, step=0.05, label="Top-p", info="Choose among the best that add up to p; 1 = off", elem_id="top-p"
                )
                parts["min_p"] = gr.Slider(
                    0,
                    0.5,
                    0,
                    step=0.01,
                    label="Min-p",
                    info="At least p times the best; 0 = off",
                    elem_id="min-p",
                )
                with gr.Row(elem_id="seed-row"):
                    info = "The same seed gives the same text"
                    parts["seed"] = gr.Number(
                        0, label="Seed", info=info, precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed"
                    )
                    parts["locked"] = gr.Checkbox(label="Lock", info="Otherwise new each time", elem_id="lock")
            hub_panel.build()
        # The script sets the controls: it triggers "restore", and the event asks it for the values.
        restore = gr.HTML("", js_on_load=mount("controls", "restore"), visible="hidden", elem_id="restore")

    controls = [parts[name] for name in CONTROLS]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    restore.restore(None, None, controls, js=js_call("controls", "takeValues"), **quiet)
    page.load(None, controls, None, js=js_call("write", "start"), **quiet)
    generate.click(None, controls, None, js=js_call("write", "generate"), **quiet)
    stop.click(None, None, None, js=js_call("write", "stop"), **quiet)
    continue_.click(None, controls, None, js=js_call("write", "continueText"), **quiet)
    gr.on([part.change for part in controls[1:]], None, controls, None, js=js_call("write", "settingsChanged"), **quiet)
