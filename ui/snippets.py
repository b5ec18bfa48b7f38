"""The panel "Use the weights": the files of a model, and programs that write the text on the screen."""

import json
import re
import shlex
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from gpt.checkpoint import FILES, WEIGHTS
from ui.model_registry import default
from ui.session import GenerationRequest

ABOUT = "Each of these writes the text on the screen again, whole, with its seed. The first two run in a copy of this project."
PLACE = "weights"  # in the address of a file
HERE = '(query) => [query, location.origin + location.pathname.replace(/[/]$/, "")]'  # in the visitor's browser


def python(ask: GenerationRequest, length: int) -> str:
    repo, _, commit = ask.model.partition("@")
    model = f"{repo!r}, revision={commit!r}" if commit else repr(repo)
    given = ", ".join(f"{name}={value!r}" for name, value in ask.settings(length).items())
    return (
        "from gpt import SamplingParams, load\n\n"
        f"lm = load({model})\n"
        f"prompt = {ask.prompt!r}\n"
        f"print(prompt + lm.generate(prompt, SamplingParams({given})).text)\n"
    )


def command_line(ask: GenerationRequest, length: int) -> str:
    repo, _, commit = ask.model.partition("@")
    settings = ask.settings(length)
    flags = {"model": repo, "revision": commit, "prompt": ask.prompt, "length": settings.pop("max_new_tokens"), **settings}
    words = [f"--{name.replace('_', '-')}={shlex.quote(str(value))}" for name, value in flags.items() if value != ""]
    return " ".join(["python -m gpt", *words]) + "\n"


def client(ask: GenerationRequest, length: int, address: str) -> str:
    given = "".join(f"    {name}={value!r},\n" for name, value in _arguments(ask, length).items() if name != "prompt")
    return (
        "from gradio_client import Client\n\n"
        f"prompt = {ask.prompt!r}\n"
        f"text = Client({address!r}).predict(\n    prompt=prompt,\n{given}    api_name='/generate',\n)\n"
        "print(prompt + text)\n"
    )


def curl(ask: GenerationRequest, length: int, address: str) -> str:
    place, body = shlex.quote(f"{address}/gradio_api/call/v2/generate"), shlex.quote(json.dumps(_arguments(ask, length)))
    return (
        "# The text streams in; the last line has all of it, as JSON.\n"
        f"id=$(curl -s {place} -H 'Content-Type: application/json' \\\n"
        f"  -d {body} | cut -d '\"' -f 4)\n"
        f"curl -sN {place}/$id\n"
    )


def _arguments(ask: GenerationRequest, length: int) -> dict[str, Any]:
    """What the page's own endpoint is called with."""
    settings = ask.settings(length)
    return {"model": ask.model, "prompt": ask.prompt, "length": settings.pop("max_new_tokens"), **settings}


def on_text(query: str, address: str) -> list[str]:
    """The programs for the text that is on the screen, which its link tells."""
    ask = GenerationRequest.from_query(query, default().id)
    if not re.fullmatch(r"https?://[\w.:/\[\]-]{1,200}", address):
        address = "http://127.0.0.1:7860"
    length = ask.params.max_new_tokens
    return [python(ask, length), command_line(ask, length), client(ask, length, address), curl(ask, length, address)]


def files(model: str) -> str:
    """Links to the files of a model: here, or on the Hub if it is from there."""
    repo, _, commit = model.partition("@")
    if commit:
        place = f"https://huggingface.co/{escape(repo)}/tree/{escape(commit)}"
        return f'<p>Download: <a href="{place}" target="_blank" rel="noopener">{escape(repo)} on the Hub</a></p>'
    found = [path for file in (*FILES, "README.md") if (path := WEIGHTS / model / file).is_file()]
    rows = "".join(
        f'<li><a href="{PLACE}/{path.parent.name}/{path.name}" download>{path.name}</a> {_size(path)}</li>' for path in found
    )
    return f"<p>Download</p><ul>{rows}</ul>"


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def build(page: gr.Blocks, query: gr.Textbox, model: gr.Radio) -> gr.Code:
    """Lay out the panel below the text. query: the link of the text on the screen. Gives the Python program."""
    with gr.Accordion("Use the weights", open=False, elem_id="use"):
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                gr.HTML(f"<p>{ABOUT}</p>")
                codes = []
                for title in ("Python", "Command line", "gradio_client", "curl"):
                    with gr.Tab(title):
                        codes.append(
                            gr.Code(label=title, show_label=False, show_line_numbers=False, interactive=False, wrap_lines=True)
                        )
            with gr.Column(scale=1, min_width=220):
                links = gr.HTML(files(default().id), elem_id="files")
        address = gr.Textbox("", visible="hidden", label="Address")
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 8}
    for event in (query.change, page.load):
        event(on_text, [query, address], codes, js=HERE, **quick)
    model.change(files, model, links, **quick)
    return codes[0]


def route() -> Mount:
    """Serves the files of the shipped models as they lie under weights/."""
    return Mount(f"/{PLACE}", StaticFiles(directory=WEIGHTS))
