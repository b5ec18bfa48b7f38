"""The page: a headline, and a tab for each thing to do."""

import gradio as gr
from starlette.middleware import Middleware

from ui import write
from ui.api import generate
from ui.first import FirstSight
from ui.shelf import shelf

TITLE = "From Bigram to GPT"
HEADLINE = (
    "Watch tiny models write, one character at a time. They learned from Shakespeare's plays, know no facts, "
    "and you cannot break anything."
)


def build() -> gr.Blocks:
    """Raises CheckpointError, in one sentence, if a model is missing or damaged."""
    models = shelf()
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{HEADLINE}</p>", elem_id="head")
        with gr.Tab("Write"):
            write.build(page, models)
        gr.api(generate, api_name="generate", concurrency_id="write", concurrency_limit=write.VISITORS)
    return page.queue(max_size=64)  # those who would wait longer than that are told so at once


def middleware() -> list[Middleware]:
    """What the server adds to the page: its first sight."""
    sample = shelf()[-1].facts["sample"]
    return [Middleware(FirstSight, title=TITLE, headline=HEADLINE, prompt=sample["prompt"], text=sample["text"])]
