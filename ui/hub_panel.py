"""The panel "Open a model from the Hub": type a repo's name, and its model joins the page's list."""

import re
from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from gpt import CheckpointError
from gpt.checkpoint import HUB_ID
from gpt.hub import HubError
from ui.assets import js_call
from ui.model_registry import ModelEntry, get_model, model_ids, open_hub_model


def open_models() -> list[ModelEntry]:
    """All open models."""
    entries = []
    for id in model_ids():
        try:
            entries.append(get_model(id))
        except ValueError:
            continue  # it was closed for another one at this moment
    return entries


def open_from_hub(id: str) -> Iterator[str]:
    """Open a model and yield messages about the progress, then its id.

    Args:
        id: "user/repo", "user/repo@commit", or the address of its page.

    Raises:
        ValueError: In a sentence for the visitor, if it cannot be opened.
    """
    repo, _, commit = id.strip().removeprefix("https://huggingface.co/").strip("/").partition("@")
    if not HUB_ID.fullmatch(repo) or not re.fullmatch(r"[0-9a-f]{40}|", commit):
        raise ValueError(f"{id[:80]!r} does not have the form user/name; give the name that the model's page on the Hub shows.")
    progress = open_hub_model(repo, commit or None)
    while True:
        try:
            done, total = next(progress)
        except StopIteration as end:
            yield end.value.id
            return
        except (CheckpointError, HubError) as error:
            raise ValueError(f"It was not opened: {error}.") from None
        yield f"Downloading {repo}: {done / 1e6:.1f} of {total / 1e6:.1f} MB…" if total else f"Looking for {repo} on the Hub…"


def on_open(id: str) -> Iterator[list[Any]]:
    """Open a model; outputs a message, and its id once it is open."""
    try:
        for message in open_from_hub(id):
            yield [paragraph(message), ""]
        yield [paragraph(f"{message.partition('@')[0]} is open. Press Generate."), message]  # the last message is its id
    except ValueError as error:
        yield [paragraph(str(error)), ""]


def paragraph(text: str) -> str:
    """A message as HTML, which screen readers announce."""
    return f'<p role="status">{escape(text)}</p>'


def build() -> None:
    """Lay out the panel below the list of models."""
    with gr.Accordion("Open a model from the Hub", open=False, elem_id="hub"):
        repo = gr.Textbox(label="Its name on the Hub", placeholder="user/name", max_lines=1, max_length=200, elem_id="hub-id")
        button = gr.Button("Open", elem_id="hub-open")
        about = paragraph("A model that somebody published with this project, of up to 100 MB.")
        message = gr.HTML(about, elem_id="hub-message")
        opened = gr.Textbox("", visible="hidden", label="Opened model")
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    limits: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "hub"}
    gr.on([button.click, repo.submit], on_open, repo, [message, opened], **limits, **quiet)
    opened.change(None, opened, None, js=js_call("picker", "modelOpened"), **quiet)
