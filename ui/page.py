"""The page: a headline, and a tab for each thing to do."""

import threading
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ui import morph, use, write
from ui.api import generate, list_models, score
from ui.model_registry import default, shelf
from ui.splash import SplashMiddleware

TITLE = "From Bigram to GPT"
HEADLINE = (
    "Watch tiny models write, one character at a time. They learned from Shakespeare's plays, or from a list of names, "
    "know no facts, and you cannot break anything."
)


def build() -> gr.Blocks:
    """Raises CheckpointError, in one sentence, if a model is missing or damaged."""
    models = shelf()
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{HEADLINE}</p>", elem_id="head")
        with gr.Tab("Write"):
            write.build(page, models)
        if spaces := morph.offered():
            with gr.Tab("Morph") as tab:
                morph.build(tab, spaces)
        place: dict[str, Any] = {"concurrency_id": "write", "concurrency_limit": write.VISITORS}
        gr.api(generate, api_name="generate", **place)
        gr.api(score, api_name="score", **place)
        gr.api(list_models, api_name="list-models", queue=False)
        foot = gr.HTML("", elem_id="foot")
        page.load(engines, None, foot, api_visibility="private", show_progress="hidden", queue=False)
    threading.Thread(target=engines, daemon=True).start()  # the first time, C is compiled: a second or two
    return page.queue(max_size=64)  # those who would wait longer than that are told so at once


def engines() -> str:
    """What computes here, said at the foot of the page."""
    used = dict.fromkeys(model.lm.engine for model in reversed(shelf()))
    return f"<p>Written on this server's CPU by {' and '.join(used)}.</p>"


def server() -> dict[str, Any]:
    """What the server has beside the page: its first sight, and the files of the models."""
    sample = default().facts["sample"]
    first = Middleware(SplashMiddleware, title=TITLE, headline=HEADLINE, prompt=sample["prompt"], text=sample["text"])
    return {"middleware": [first], "routes": [use.route()]}
