"""The part "Open a model from the Hub": a repo's name in, a model on the page's list out."""

import re
from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from gpt import CheckpointError
from gpt.checkpoint import HUB_ID
from gpt.hub import HubError
from ui.model_registry import fetched, offered, take


def choices() -> list[tuple[str, str]]:
    """The list of models to pick from."""
    found = []
    for id in dict.fromkeys(offered()):
        try:
            found.append((take(id).label, id))
        except ValueError:
            continue  # it made room for another one at this moment
    return found


def opening(id: str) -> Iterator[str]:
    """Open a model, "user/repo" or "user/repo@commit", and tell of it as it goes on; the last is its id.

    Raises ValueError, in a sentence for the visitor, if it cannot be opened.
    """
    repo, _, commit = id.strip().removeprefix("https://huggingface.co/").strip("/").partition("@")
    if not HUB_ID.fullmatch(repo) or not re.fullmatch(r"[0-9a-f]{40}|", commit):
        raise ValueError(f"{id[:80]!r} is no model on the Hub; give one like user/name, as its page shows it.")
    getting = fetched(repo, commit or None)
    while True:
        try:
            done, total = next(getting)
        except StopIteration as end:
            yield end.value.id
            return
        except (CheckpointError, HubError) as error:
            raise ValueError(f"It was not opened: {error}.") from None
        yield f"Fetching {repo}: {done / 1e6:.1f} of {total / 1e6:.1f} MB…" if total else f"Asking the Hub for {repo}…"


def on_open(id: str) -> Iterator[list[Any]]:
    try:
        for told in opening(id):
            yield [gr.skip(), paragraph(told)]
        yield [gr.update(choices=choices(), value=told), paragraph(f"{told.partition('@')[0]} is open. Press Generate.")]
    except ValueError as error:
        yield [gr.skip(), paragraph(str(error))]


def paragraph(text: str) -> str:
    return f'<p role="status">{escape(text)}</p>'


def build(model: gr.Radio) -> None:
    """Lay out the part below the list of models."""
    with gr.Accordion("Open a model from the Hub", open=False, elem_id="hub"):
        repo = gr.Textbox(label="Model", placeholder="user/name", max_lines=1, max_length=200, elem_id="hub-id")
        button = gr.Button("Open", elem_id="hub-open")
        told = gr.HTML(paragraph("A small model that was published with this project. Up to 100 MB."), elem_id="hub-told")
    gr.on(
        [button.click, repo.submit],
        on_open,
        repo,
        [model, told],
        concurrency_limit=2,
        concurrency_id="hub",
        api_visibility="private",
        show_progress="hidden",
    )
