"""The tab "Look inside": what happens in a GPT and in a bigram. Its sections are drawn by scripts."""

import gradio as gr

from ui.assets import mount

SECTIONS = (("inside-gpt", "Inside a GPT"), ("inside-bigram", "Inside a bigram"))  # modules, and their titles


def build() -> None:
    """Lay out the tab."""
    for module, title in SECTIONS:
        gr.HTML(f"<h2>{title}</h2>")
        gr.HTML("", js_on_load=mount(module), elem_id=module)
