"""What of a text occurs word for word in the text that its model learned from: the endpoint `page/copied`."""

from functools import cache
from threading import Lock
from typing import Annotated, Any

from pydantic import Field
from starlette.routing import BaseRoute, Route

from gpt import CheckpointError
from gpt.memorization import MIN_MATCH_CHARS, SuffixIndex, count_covered
from train.data import SOURCES, TextDataset, load_shipped_dataset
from ui.endpoints import json_endpoint
from ui.model_registry import get_model
from ui.plays import PARAGRAPH, Plays
from ui.schema import ModelId, Text

MAX_CHARS = 20_000  # more than the longest text that the page writes
_lock = Lock()  # visitors who come at the same time share one index


class RunningText:
    """A text in which copied spans are looked up.

    Args:
        dataset: The whole text; its training part is searched.
    """

    def __init__(self, dataset: TextDataset) -> None:
        self.index, self.plays = SuffixIndex(dataset.split()[0].text), Plays(dataset.text)

    def compare(self, prompt: str, text: str) -> dict[str, Any]:
        """The spans of `text` that the model copied. The prompt is not its work, so it is neither searched nor counted."""
        matches = self.index.maximal_matches(text)
        spans = []
        for match in matches:
            place = self.plays.find_place(match.source_position, match.source_position + match.end - match.start)
            has_heading = PARAGRAPH in text[match.start : match.end]
            spans.append(
                {"start": match.start, "end": match.end, "occurrences": match.occurrences, "has_heading": has_heading}
                | vars(place)
            )
        return {"min_length": MIN_MATCH_CHARS, "characters": len(text), "copied": count_covered(matches), "spans": spans}


class Lines:
    """A list of lines in which each line of a text is looked up.

    Args:
        dataset: All lines.
    """

    def __init__(self, dataset: TextDataset) -> None:
        train, held_out = dataset.split()
        self.noun = "names" if dataset.name == "names" else "lines"
        self.origins = dict.fromkeys(held_out.documents, "held_out") | dict.fromkeys(train.documents, "training")

    def compare(self, prompt: str, text: str) -> dict[str, Any]:
        """Where each finished line of `text` is known from. The first one starts in the prompt, the last one may be cut off."""
        lines, start, beginning = [], 0, prompt.rpartition("\n")[2]
        for rest in text.split("\n")[:-1]:
            if line := beginning + rest:
                lines.append({"start": start, "end": start + len(rest), "text": line, "origin": self.origins.get(line)})
            start, beginning = start + len(rest) + 1, ""
        return {"noun": self.noun, "lines": lines}


@cache
def _open_training_text(sha256: str, is_lines: bool) -> RunningText | Lines:
    dataset = load_shipped_dataset(sha256, is_lines)
    assert dataset is not None  # noqa: S101 (it is one of SOURCES)
    return Lines(dataset) if is_lines else RunningText(dataset)


CopiedText = Annotated[Text, Field(max_length=MAX_CHARS, description=f"a text of up to {MAX_CHARS:,} characters")]


def find_copied(model: ModelId, text: CopiedText, prompt: CopiedText = "") -> dict[str, Any]:
    """Compare a text with the training text of a model.

    Positions are in code points. An index is built on first use, which takes about a second.

    Args:
        model: The id of the model.
        text: What it wrote, or what was pasted; a line counts once its new line is there.
        prompt: What it continued.

    Raises:
        ValueError: In a sentence for the visitor.
    """
    if len(text) + len(prompt) > MAX_CHARS:
        raise ValueError(f"The text has more than {MAX_CHARS:,} characters, which is the most that can be compared.")
    entry = get_model(model)
    data = entry.training_log.get("data", {})
    sha256 = data.get("sha256")
    if all(sha256 != source.sha256 for source in SOURCES.values()):
        raise ValueError("The text that this model learned from is not here, so nothing can be compared with it.")
    try:
        with _lock:
            training_text = _open_training_text(sha256, "lines" in data)
    except CheckpointError:
        raise ValueError("The training text is damaged on this server, so nothing can be compared with it.") from None
    prompt, lowered = map(entry.lm.tokenizer.normalize, (prompt, text))
    return training_text.compare(prompt, lowered if len(lowered) == len(text) else text)  # positions are those in `text`


def routes() -> list[BaseRoute]:
    """The endpoint for the page."""
    return [Route("/page/copied", json_endpoint(find_copied), methods=["POST"])]
