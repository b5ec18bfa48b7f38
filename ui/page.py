"""The page: a headline, and a tab for each thing to do."""

import threading
from html import escape
from string import Template
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ui import assets, lessons, routes
from ui.api import add_endpoint, generate, list_models, score
from ui.model_registry import default_model
from ui.model_registry import list_models as list_entries
from ui.refusals import PageBlocks, RefusalMiddleware
from ui.source import source_address
from ui.splash import SplashMiddleware
from ui.tabs import inside, learn, morph, train, write
from ui.theme import theme
from ui.visits import VisitMiddleware

TITLE = "From Bigram to GPT"
HEADLINE = "Watch tiny language models write, one character at a time, and see why."


def build() -> gr.Blocks:
    """Build the page. Raises CheckpointError if a model is missing or damaged, LessonError if a lesson is malformed."""
    list_entries()
    lessons.load_lessons()
    page: gr.Blocks
    with PageBlocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{escape(HEADLINE)}</p>", elem_id="head")
        gr.HTML("", js_on_load=assets.mount("lesson-panel"), apply_default_css=False, elem_id="lesson-panel")
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            with _tab("write", "Write"):
                write.build(page)
            _script_tab("compare", "Compare")
            _script_tab("score", "Score")
            with _tab("inside", "Look inside"):
                inside.build()
            if learn.replays():
                _script_tab("learn", learn.TITLE)
            with _tab("train", train.TITLE):
                train.build()
            _script_tab("families", "Three families")
            if list_entries("infills"):
                _script_tab("all-at-once", "All at once")
            _script_tab("turn", "Your turn")
            _script_tab("lessons", "Lessons")
            if latent_models := morph.latent_models():
                with _tab("morph", "Morph") as tab:
                    morph.build(tab, latent_models)
        limits: dict[str, Any] = {"concurrency_id": "write", "concurrency_limit": 128}
        add_endpoint(page, generate, "generate", **limits)
        add_endpoint(page, score, "score", **limits)
        add_endpoint(page, list_models, "list-models", queue=False)
        foot = Template(assets.read("foot.html")).substitute(source=escape(source_address()))
        gr.HTML(foot, js_on_load=assets.mount("foot"), apply_default_css=False, elem_id="foot")
        engine_names = gr.HTML("", elem_id="engines")
        page.load(engines, None, engine_names, api_visibility="private", show_progress="hidden", queue=False)
    threading.Thread(target=engines, daemon=True).start()  # compiles the C kernel on first use, which takes seconds
    # Further visitors are refused at once instead of waiting longer, and nobody can pass by the queue.
    page.queue(max_size=256, api_open=False)
    return page


def _tab(name: str, title: str) -> gr.Tab:
    tab = gr.Tab(title, id=name, elem_id=f"tab-{name}")
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    tab.select(None, None, None, js=assets.js_call("tabs", "selected", name), **quiet)
    return tab


def _script_tab(name: str, title: str) -> None:
    """A tab that a script draws: the module of this name, which links call the tab by."""
    with _tab(name, title):
        gr.HTML("", js_on_load=assets.mount(name), elem_id=name)


def engines() -> str:
    """Which engines run the models, for the foot of the page."""
    names = dict.fromkeys(entry.lm.engine for entry in reversed(list_entries()))
    return f"<p>Written on this server's CPU by {' and '.join(names)}.</p>"


def launch_options() -> dict[str, Any]:
    """The arguments of `launch` that make the page look and answer as it should."""
    sample = default_model().sample or {"prompt": "", "text": ""}
    splash = Middleware(SplashMiddleware, title=TITLE, headline=HEADLINE, prompt=sample["prompt"], text=sample["text"])
    return {
        "theme": theme(),
        "css_paths": assets.STYLESHEETS,
        "head": assets.head(),
        "app_kwargs": {
            "middleware": [splash, Middleware(VisitMiddleware), Middleware(RefusalMiddleware)],
            "routes": routes.routes(),
        },
    }
