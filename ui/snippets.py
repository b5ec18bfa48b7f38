"""The panel "Use the weights": the files of a model, and programs that write the text on the screen."""

import json
import re
import shlex
from html import escape
from typing import Any
from urllib.parse import quote

import gradio as gr
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from ui.assets import js_call
from ui.model_registry import default_model, get_model
from ui.session import GenerationRequest

ABOUT = (
    "Each of these programs writes the text on the screen again, with the same seed. The first two run in a copy of this project."
)
FILES_PATH = "weights"  # in the address of a file
DEFAULT_ADDRESS = "http://127.0.0.1:7860"


def python(request: GenerationRequest, length: int) -> str:
    """A Python program with the `gpt` package."""
    entry = get_model(request.model)
    model = f"{entry.source!r}, revision={entry.commit!r}" if entry.commit else repr(entry.source)
    settings = ", ".join(f"{name}={value!r}" for name, value in request.settings(length).items())
    return (
        "from gpt import SamplingParams, load\n\n"
        f"lm = load({model})\n"
        f"prompt = {request.prompt!r}\n"
        f"print(prompt + lm.generate(prompt, SamplingParams({settings})).text)\n"
    )


def command_line(request: GenerationRequest, length: int) -> str:
    """A command with `python -m gpt`."""
    entry, settings = get_model(request.model), request.settings(length)
    flags = {"model": entry.source, "revision": entry.commit, "prompt": request.prompt}
    flags |= {"length": settings.pop("max_new_tokens"), **settings}
    words = [f"--{name.replace('_', '-')}={shlex.quote(str(value))}" for name, value in flags.items() if value != ""]
    return " ".join(["python -m gpt", *words]) + "\n"


def client(request: GenerationRequest, length: int, address: str) -> str:
    """A Python program with gradio_client."""
    arguments = "".join(f"    {name}={value!r},\n" for name, value in _arguments(request, length).items() if name != "prompt")
    return (
        "from gradio_client import Client\n\n"
        f"prompt = {request.prompt!r}\n"
        f"text = Client({address!r}).predict(\n    prompt=prompt,\n{arguments}    api_name='/generate',\n)\n"
        "print(prompt + text)\n"
    )


def curl(request: GenerationRequest, length: int, address: str) -> str:
    """Shell commands with curl."""
    endpoint = shlex.quote(f"{address}/gradio_api/call/v2/generate")
    body = shlex.quote(json.dumps(_arguments(request, length)))
    return (
        "# The text streams in; the last line has all of it, as JSON.\n"
        f"id=$(curl -s {endpoint} -H 'Content-Type: application/json' \\\n"
        f"  -d {body} | cut -d '\"' -f 4)\n"
        f"curl -sN {endpoint}/$id\n"
    )


def _arguments(request: GenerationRequest, length: int) -> dict[str, Any]:
    """The arguments of the page's own endpoint."""
    settings = request.settings(length)
    return {"model": request.model, "prompt": request.prompt, "length": settings.pop("max_new_tokens"), **settings}


def on_text(query: str, address: str) -> list[str]:
    """The programs for the text on the screen.

    Args:
        query: The link of the text.
        address: The page's own, as the browser says; anything else than an address is replaced.
    """
    request = GenerationRequest.from_query(query, default_model().id)
    if not re.fullmatch(r"https?://[\w.:/\[\]-]{1,200}", address):
        address = DEFAULT_ADDRESS
    length = request.params.max_new_tokens
    return [
        python(request, length), command_line(request, length), client(request, length, address), curl(request, length, address)
    ]  # fmt: skip


def file_links(model: str) -> str:
    """Links, as HTML, to the files of a model: here, or on the Hub if it is from there."""
    try:
        entry = get_model(model)
    except ValueError as error:
        return f"<p>{escape(str(error))}</p>"
    if entry.commit:
        url = f"https://huggingface.co/{quote(entry.source)}/tree/{entry.commit}"
        return f'<p>Download: <a href="{url}" target="_blank" rel="noopener">{escape(entry.source)} on the Hub</a></p>'
    rows = "".join(
        f'<li><a href="{FILES_PATH}/{quote(entry.id, safe="")}/{path.name}" download>{path.name}</a> '
        f"{_size(path.stat().st_size)}</li>"
        for path in entry.files()
    )
    return f"<p>Download</p><ul>{rows}</ul>"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def build(page: gr.Blocks, query: gr.Textbox, model: gr.Radio) -> gr.Code:
    """Lay out the panel below the text.

    Args:
        page: The page, whose load event fills the panel.
        query: The link of the text on the screen.
        model: The list of models.

    Returns:
        The Python program.
    """
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
                links = gr.HTML(file_links(default_model().id), elem_id="files")
        address = gr.Textbox("", visible="hidden", label="Address")
    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 8}
    for event in (query.change, page.load):
        event(on_text, [query, address], codes, js=js_call("programInputs"), **options)
    model.change(file_links, model, links, **options)
    return codes[0]


async def send_file(request: Request) -> FileResponse:
    """Send a file of a model that the page offers; 404 for anything else."""
    try:
        files = get_model(request.path_params["model"]).files()
    except ValueError:
        files = []
    for path in files:
        if path.name == request.path_params["file"]:
            return FileResponse(path)
    raise HTTPException(404)


def route() -> Route:
    """Where the files of the models are served."""
    return Route(f"/{FILES_PATH}/{{model}}/{{file}}", send_file)
