"""The guided lessons: Markdown files in `ui/lessons/`, which a teacher can edit (ui/lessons/README.md), as HTML for the page."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from starlette.routing import BaseRoute, Route

from ui.endpoints import json_endpoint

FOLDER = Path(__file__).parent / "lessons"
OPTION = re.compile(r"\[([ x])\]\s+")


class LessonError(ValueError):
    """A lesson is malformed; the message is a sentence with the file and the line."""


@dataclass(frozen=True)
class Option:
    """One possible prediction."""

    html: str
    correct: bool


@dataclass(frozen=True)
class Step:
    """A step of a lesson.

    Attributes:
        title: In plain text.
        html: What to read before the question.
        question_html: The question.
        options: The predictions to choose from; one of them is right.
        label: Of the link, in plain text.
        query: A link of the page without its "?" (ui/static/js/link.js), which shows the answer.
        answer_html: What to read once the visitor has answered.
    """

    title: str
    html: str
    question_html: str
    options: list[Option]
    label: str
    query: str
    answer_html: str


@dataclass(frozen=True)
class Lesson:
    """A lesson.

    Attributes:
        number: What a link calls it by.
        title: In plain text, as `outcome`.
        minutes: How long it takes.
        outcome: What the visitor knows afterwards.
        intro_html: What to read before the first step.
        steps: Its steps.
    """

    number: int
    title: str
    minutes: int
    outcome: str
    intro_html: str
    steps: list[Step]


def _markdown() -> MarkdownIt:
    """CommonMark without HTML and images, whose links lead to a place on this page or to an https address."""
    markdown = MarkdownIt("commonmark", {"html": False}).disable("image")
    markdown.validateLink = lambda url: url.startswith(("?", "https://"))  # type: ignore[method-assign]
    return markdown


MARKDOWN = _markdown()


def parse_lesson(text: str, name: str) -> Lesson:
    """Parse a lesson.

    Args:
        text: The content of the file: front matter, an introduction, and a section for each step.
        name: Of the file, which starts with the number of the lesson.

    Raises:
        LessonError: If it is malformed.
    """
    match = re.match(r"(\d+)-", name)
    if not match:
        raise LessonError(f"{name}: the name of a lesson starts with its number, such as 1-bigram.md.")
    return _Parser(text, name).parse(int(match[1]))


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self.name, self.lines = name, text.splitlines()
        self.env: dict[str, Any] = {}

    def fail(self, line: int, message: str) -> NoReturn:
        """Raise the error; lines count from 0."""
        raise LessonError(f"{self.name}, line {line + 1}: {message}")

    def parse(self, number: int) -> Lesson:
        front, body_start = self.front_matter()
        # The front matter becomes empty lines, so that the lines of Markdown's tokens are those of the file.
        body = "\n" * body_start + "\n".join(self.lines[body_start:])
        blocks = _top_level_blocks(MARKDOWN.parse(body, self.env))
        for block in blocks:
            self.check_links(block)
        starts = [i for i, block in enumerate(blocks) if block[0].type == "heading_open"]
        for i in starts:
            if blocks[i][0].tag != "h2":
                self.fail(_line(blocks[i]), "a step starts with “## ”; there are no other headings.")
        if not starts:
            self.fail(body_start, "there is no step; a step starts with “## ” and its title.")
        ends = [*starts[1:], len(blocks)]
        steps = [self.step(blocks[start], blocks[start + 1 : end]) for start, end in zip(starts, ends, strict=True)]
        return Lesson(number, **front, intro_html=self.render(blocks[: starts[0]]), steps=steps)

    def front_matter(self) -> tuple[dict[str, Any], int]:
        """Its values, and the first line after it."""
        end = next((i for i, line in enumerate(self.lines) if i > 0 and line.rstrip() == "---"), None)
        if end is None or self.lines[0].rstrip() != "---":
            self.fail(0, "a lesson starts with title, minutes and outcome between two lines of “---”.")
        try:
            values = yaml.safe_load("\n".join(self.lines[:end]))
        except yaml.MarkedYAMLError as error:
            self.fail(error.problem_mark.line if error.problem_mark else 0, f"this is not YAML: {error.problem}.")
        kinds = {"title": str, "minutes": int, "outcome": str}
        if not isinstance(values, dict) or values.keys() != kinds.keys():
            self.fail(0, "the front matter has title, minutes and outcome, and nothing else.")
        for name, kind in kinds.items():
            if type(values[name]) is not kind:
                self.fail(0, f"{name} must be {'a whole number' if kind is int else 'text'}.")
        return values, end + 1

    def step(self, heading: list[Token], blocks: list[list[Token]]) -> Step:
        title, line = heading[1].content, _line(heading)
        links = [(i, found) for i, block in enumerate(blocks) if (found := _show_link(block))]
        lists = [i for i, block in enumerate(blocks) if _is_task_list(block)]
        if len(links) != 1:
            self.fail(line, f"“{title}” needs one paragraph that is a link such as [Show me](?prompt=q), and has {len(links)}.")
        if len(lists) != 1:
            self.fail(line, f"“{title}” needs one list of answers such as “- [x] yes” and “- [ ] no”, and has {len(lists)}.")
        (link, (label, href)), answers = links[0], lists[0]
        if link > answers or answers == 0 or blocks[answers - 1][0].type != "paragraph_open" or link == answers - 1:
            self.fail(_line(blocks[answers]), "the paragraph before the answers is the question; the link stands above it.")
        if answers == len(blocks) - 1:
            self.fail(_line(blocks[answers]), f"“{title}” needs a text after the answers, which explains what is shown.")
        before = [block for i, block in enumerate(blocks[: answers - 1]) if i != link]
        return Step(
            title=title,
            html=self.render(before),
            question_html=self.render_inline(blocks[answers - 1][1]),
            options=self.options(blocks[answers]),
            label=label,
            query=href.removeprefix("?"),
            answer_html=self.render(blocks[answers + 1 :]),
        )

    def options(self, block: list[Token]) -> list[Option]:
        options = []
        for token in (token for token in block if token.type == "inline"):
            if not (mark := OPTION.match(token.content)):
                self.fail(token.map[0] if token.map else _line(block), "each answer starts with “[ ] ” or “[x] ”.")
            html = MARKDOWN.renderInline(token.content[mark.end() :])
            options.append(Option(html, mark[1] == "x"))
        if sum(option.correct for option in options) != 1 or len(options) < 2:
            self.fail(_line(block), "there must be two or more answers, and “[x] ” before exactly one.")
        return options

    def check_links(self, block: list[Token]) -> None:
        """Refuse links to elsewhere, which Markdown leaves as text; links to other sites open a window of their own."""
        for token in block:
            for child in token.children or []:
                if child.type == "text" and "](" in child.content:
                    self.fail(token.map[0] if token.map else 0, "a link leads to “?...” on this page or to “https://...”.")
                if child.type == "link_open" and str(child.attrs["href"]).startswith("https://"):
                    child.attrs |= {"target": "_blank", "rel": "noopener"}

    def render(self, blocks: Sequence[list[Token]]) -> str:
        tokens = [token for block in blocks for token in block]
        return str(MARKDOWN.renderer.render(tokens, MARKDOWN.options, self.env))

    def render_inline(self, token: Token) -> str:
        return str(MARKDOWN.renderer.render([token], MARKDOWN.options, self.env))


def _top_level_blocks(tokens: Sequence[Token]) -> list[list[Token]]:
    blocks: list[list[Token]] = [[]]
    for token in tokens:
        blocks[-1].append(token)
        if token.level == 0 and token.nesting <= 0:
            blocks.append([])
    return blocks[:-1]


def _line(block: list[Token]) -> int:
    return block[0].map[0] if block[0].map else 0


def _show_link(block: list[Token]) -> tuple[str, str] | None:
    """The label and the address of a paragraph that is a link to a place on this page."""
    children = (block[1].children or []) if block[0].type == "paragraph_open" else []
    if len(children) < 3 or children[0].type != "link_open" or children[-1].type != "link_close":
        return None
    href = str(children[0].attrs["href"])
    is_one = sum(child.type == "link_open" for child in children) == 1
    return ("".join(child.content for child in children), href) if is_one and href.startswith("?") else None


def _is_task_list(block: list[Token]) -> bool:
    first = next((token for token in block if token.type == "inline"), None)
    return block[0].type == "bullet_list_open" and first is not None and OPTION.match(first.content) is not None


@cache
def load_lessons() -> list[Lesson]:
    """The lessons by number. Raises LessonError if one is malformed."""
    paths = [path for path in FOLDER.glob("*.md") if path.name != "README.md"]
    lessons = sorted((parse_lesson(path.read_text(encoding="utf-8"), path.name) for path in paths), key=lambda each: each.number)
    for i, lesson in enumerate(lessons, start=1):
        if lesson.number != i:
            raise LessonError(f"{FOLDER.name}: the lessons are numbered from 1, without gaps, and there is no single lesson {i}.")
    return lessons


def list_lessons() -> dict[str, Any]:
    """What the browser gets."""
    return {"lessons": [asdict(lesson) for lesson in load_lessons()]}


def routes() -> list[BaseRoute]:
    """The endpoint page/lessons."""
    return [Route("/page/lessons", json_endpoint(list_lessons))]
