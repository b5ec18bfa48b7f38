"""The page's static files, and how Gradio's components and events call its scripts, which are ES modules."""

import json
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parent / "static"
STYLESHEETS = [path for path in sorted(STATIC.glob("*.css")) if path.name not in ("colors.css", "document.css", "splash.css")]
SCRIPTS = sorted((STATIC / "js").glob("*.js"))


def read(name: str) -> str:
    """The text of a static file."""
    return (STATIC / name).read_text(encoding="utf-8")


def head() -> str:
    """What goes into the document's head.

    The colors and the document's styles are not in `css_paths`, where Gradio would scope them to its own container. The
    modules import each other: preloaded, they come in one round trip.
    """
    preloads = "".join(f'<link rel="modulepreload" href="page/static/js/{path.name}">' for path in SCRIPTS)
    return f"<style>{read('colors.css')}{read('document.css')}</style>{preloads}"


def _module(name: str) -> str:
    return f'import(new URL("page/static/js/{name}.js", document.baseURI))'


def mount(module: str, *arguments: Any) -> str:
    """JavaScript for the `js_on_load` of a `gr.HTML`, which hands its element to a module's `mount`.

    Args:
        module: A file in `ui/static/js/`.
        arguments: JSON values that `mount` gets after the element and Gradio's `trigger`.
    """
    values = "".join(f", {json.dumps(argument)}" for argument in arguments)
    return f"{_module(module)}.then((module) => module.mount(element, trigger{values}))"


def js_call(module: str, function: str, *arguments: Any) -> str:
    """JavaScript for an event's `js=`.

    Args:
        module: A file in `ui/static/js/`.
        function: A function that it exports; what it returns becomes the values of the event's outputs.
        arguments: JSON values that it gets before the values of the event's inputs.
    """
    values = "".join(f"{json.dumps(argument)}, " for argument in arguments)
    return f"async (...inputs) => (await {_module(module)}).{function}({values}...inputs)"
