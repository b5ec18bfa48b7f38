"""The source of the page, for those who read code: where it is published, or else as files of this server."""

import os
import re
from html import escape
from pathlib import Path
from string import Template

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route

from ui.assets import read

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("gpt", "train", "ui")
SUFFIXES = (".c", ".css", ".html", ".js", ".md", ".py")
PATH = "page/source"  # of the files, in the page's own address


def source_address() -> str:
    """The repository that CITATION.cff names, the files of the Space that this is, or else the files here."""
    citation = ROOT / "CITATION.cff"
    text = citation.read_text(encoding="utf-8") if citation.is_file() else ""
    if found := re.search(r"^repository-code: *[\"']?(https://[^\s\"']+)", text, re.MULTILINE):
        return found[1]
    if space := os.environ.get("SPACE_ID"):
        return f"https://huggingface.co/spaces/{space}/tree/main"
    return PATH


def source_files() -> list[str]:
    """The paths of the source files."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    return ["README.md", "app.py", *sorted(path.relative_to(ROOT).as_posix() for path in files)]


def send_index(request: Request) -> HTMLResponse:
    """A list of the files."""
    items = "".join(f'<li><a href="source/{escape(name)}">{escape(name)}</a></li>' for name in source_files())
    return HTMLResponse(Template(read("source.html")).substitute(items=items))


def send_file(request: Request) -> PlainTextResponse:
    """A source file as text; 404 for anything else."""
    name = request.path_params["name"]
    if name not in source_files():
        raise HTTPException(404)
    return PlainTextResponse((ROOT / name).read_text(encoding="utf-8"))


def routes() -> list[Route]:
    """Where the source is served."""
    return [Route(f"/{PATH}", send_index), Route(f"/{PATH}/{{name:path}}", send_file)]
