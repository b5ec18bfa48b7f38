"""The page's static files, and how Gradio's events call the functions of `ui/static/page.js`."""

import json
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parent / "static"
STYLESHEET = STATIC / "app.css"


def read(name: str) -> str:
    """The text of a static file."""
    return (STATIC / name).read_text(encoding="utf-8")


def head() -> str:
    """What goes into the document's head: inline, since events may call the script as soon as the page is drawn.

    The colours are not in `css_paths`, where Gradio would scope them to its own container.
    """
    return f"<style>{read('colors.css')}</style><script>{read('page.js')}</script>"


def js_call(function: str, *arguments: Any) -> str:
    """JavaScript for an event's `js=`.

    Args:
        function: A function of `page.js`.
        arguments: JSON values that it gets before the values of the event's inputs.
    """
    values = "".join(f"{json.dumps(argument)}, " for argument in arguments)
    return f"(...inputs) => bigramToGpt.{function}({values}...inputs)"
