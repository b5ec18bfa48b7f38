"""The panel "Use the weights": the files of a model, and programs that write the text on the screen."""

import json
import re
import shlex
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from gpt.sampling import format_forced
from ui.model_registry import ModelEntry, default_model, get_model
from ui.schema import Link, Text
from ui.session import GenerationRequest

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
    if "forced" in settings:
        settings["forced"] = format_forced(settings["forced"])
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
    if "forced" in settings:
        settings["branch"] = format_forced(settings.pop("forced"))
    return {"model": request.model, "prompt": request.prompt, "length": settings.pop("max_new_tokens"), **settings}


Address = Annotated[Text, Field(max_length=2_000, description="the address of the page")]


def programs(query: Link, address: Address = "") -> dict[str, Any]:
    """What the panel shows for the text on the screen.

    Args:
        query: The link of the text.
        address: The page's own, as the browser says; anything else than an address is replaced.

    Returns:
        The programs by title, and the files of the model: name, address, and bytes if they are known. The files of a model that
        the visitor trained have no address; its programs open the folder that the .zip contains.
    """
    request = GenerationRequest.from_query(query, default_model().id)
    if not re.fullmatch(r"https?://[\w.:/\[\]-]{1,200}", address):
        address = DEFAULT_ADDRESS
    length = request.params.max_new_tokens
    entry, texts = get_model(request.model), {"Python": python(request, length), "Command line": command_line(request, length)}
    if not entry.own_label:  # programs cannot reach a model that a visitor trained
        texts |= {"gradio_client": client(request, length, address), "curl": curl(request, length, address)}
    return {"programs": texts, "files": _files(entry)}


def card_address(entry: ModelEntry) -> str:
    """Where the card of a model is; "" if it has none."""
    if entry.commit:
        return f"https://huggingface.co/{quote(entry.source)}"
    return next((file["url"] for file in _files(entry) if file["name"] == "README.md"), "")


def _files(entry: ModelEntry) -> list[dict[str, Any]]:
    if entry.commit:
        url = f"https://huggingface.co/{quote(entry.source)}/tree/{entry.commit}"
        return [{"name": f"{entry.source} on the Hub", "url": url, "bytes": None}]
    folder = f"{FILES_PATH}/{quote(entry.id, safe='')}"
    return [{"name": p.name, "url": f"{folder}/{p.name}", "bytes": p.stat().st_size} for p in entry.files()]


async def send_file(request: Request) -> FileResponse:
    """Send a file of a model that the page offers; 404 for anything else."""
    try:
        files = get_model(request.path_params["model"], None).files()
    except ValueError:
        files = []
    for path in files:
        if path.name == request.path_params["file"]:
            return FileResponse(path, media_type="text/plain; charset=utf-8" if path.suffix == ".md" else None)  # to be read
    raise HTTPException(404)


def route() -> Route:
    """Where the files of the models are served."""
    return Route(f"/{FILES_PATH}/{{model}}/{{file}}", send_file)
