"""The tab "Train yours". A script draws it; on a Space with OAuth, it has a form that publishes a model on the Hub."""

import os
from collections.abc import Iterator
from typing import Any

import gradio as gr

from gpt import CheckpointError
from gpt.hub import HubError
from train.publish import publish
from ui.assets import js_call, mount
from ui.hub_panel import paragraph
from ui.visits import visits

TITLE = "Train yours"
ABOUT = "One of your models becomes a public repository of your account, with its model card. This page does not keep your login."


def has_login() -> bool:
    """Whether the page runs as a Space with OAuth (`hf_oauth: true` in README.md)."""
    return "OAUTH_CLIENT_ID" in os.environ


def build() -> None:
    """Lay out the tab."""
    gr.HTML("", js_on_load=mount("train"), apply_default_css=False, elem_id="train")
    if has_login():
        _build_form()


def _build_form() -> None:
    with gr.Column(elem_id="publish"):
        gr.HTML(f"<h2>Publish to the Hub</h2><p>{ABOUT}</p>", apply_default_css=False, elem_classes="reading-tab train")
        gr.LoginButton(elem_id="publish-login")
        gr.HTML("", js_on_load=mount("train-publish"), apply_default_css=False, elem_id="publish-model")
        repo = gr.Textbox(label="Its name on the Hub", placeholder="your-name/my-gpt", max_lines=1, max_length=200)
        button = gr.Button("Publish", elem_id="publish-button")
        message = gr.HTML(paragraph(""), elem_id="publish-message")
        model, visit = (gr.Textbox("", visible="hidden", label=name) for name in ("Model", "Visit"))
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    limits: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "hub"}
    script = js_call("train-publish", "takeValues")
    gr.on([button.click, repo.submit], on_publish, [repo, model, visit], message, js=script, **limits, **quiet)


def on_publish(repo: str, model: str, visit: str, token: gr.OAuthToken | None) -> Iterator[str]:
    """Publish a model of a visit; yields messages.

    Args:
        repo: The Hub id.
        model: The id of the model.
        visit: The token of the visit.
        token: The visitor's login, which is used for this upload only; None before they have signed in.
    """
    owner = visits.find(visit)
    if token is None:
        yield paragraph("Sign in with Hugging Face first.")
    elif owner is None or model not in owner.models:
        yield paragraph("This model is not here any more. Train it again.")
    else:
        yield paragraph("Publishing…")
        try:
            *_, done = publish(owner.folder / model, repo.strip(), token=token.token)
            yield paragraph(done)
        except (CheckpointError, HubError) as error:
            yield paragraph(f"It was not published: {error}.")
