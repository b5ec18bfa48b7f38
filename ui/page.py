"""The page: a headline, and a tab for each thing to do."""

import threading
from html import escape
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ui import assets, snippets
from ui.api import generate, list_models, score
from ui.model_registry import default_model
from ui.model_registry import list_models as list_entries
from ui.splash import SplashMiddleware
from ui.tabs import morph, write
from ui.theme import theme

TITLE = "From Bigram to GPT"
HEADLINE = (
    "Watch tiny language models write, one character at a time. They learned from Shakespeare's plays or from a list of names."
)


def build() -> gr.Blocks:
    """Build the page. Raises CheckpointError if a model is missing or damaged."""
    models = list_entries()
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{escape(HEADLINE)}</p>", elem_id="head")
        with gr.Tab("Write"):
            write.build(page, models)
        if latent_models := morph.latent_models():
            with gr.Tab("Morph") as tab:
                morph.build(tab, latent_models)
        limits: dict[str, Any] = {"concurrency_id": "write", "concurrency_limit": write.MAX_RUNS}
        gr.api(generate, api_name="generate", **limits)
        gr.api(score, api_name="score", **limits)
        gr.api(list_models, api_name="list-models", queue=False)
        foot = gr.HTML("", elem_id="foot")
        page.load(engines, None, foot, api_visibility="private", show_progress="hidden", queue=False)
    threading.Thread(target=engines, daemon=True).start()  # compiles the C kernel on first use, which takes seconds
    page.queue(max_size=64)  # further visitors are refused at once instead of waiting longer
    return page


def engines() -> str:
    """Which engines run the models, for the foot of the page."""
    names = dict.fromkeys(entry.lm.engine for entry in reversed(list_entries()))
    return f"<p>Written on this server's CPU by {' and '.join(names)}.</p>"


def launch_options() -> dict[str, Any]:
    """The arguments of `launch` that make the page look and answer as it should."""
    sample = default_model().sample or {"prompt": "", "text": ""}
    splash = Middleware(SplashMiddleware, title=TITLE, headline=HEADLINE, prompt=sample["prompt"], text=sample["text"])
    return {
        "theme": theme(),
        "css_paths": [assets.STYLESHEET],
        "head": assets.head(),
        "app_kwargs": {"middleware": [splash], "routes": [snippets.route()]},
    }
