"""The models that the page offers: each opened once, with the facts that its training run wrote."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from gpt import LanguageModel, load
from gpt.checkpoint import WEIGHTS, CheckpointError, names


@dataclass(frozen=True)
class Shelved:
    """An open model and its training.json."""

    lm: LanguageModel
    facts: dict[str, Any]

    @property
    def sees(self) -> str:
        return "1 character" if self.lm.window == 1 else f"the last {self.lm.window} characters"

    @property
    def label(self) -> str:
        """Name, what it sees, size and quality: its line in the list of models."""
        bits = self.facts["held_out"]["bits_per_character"]
        return f"{self.lm.name}\nsees {self.sees} · {_short(self.lm.parameters)} parameters · {bits:.2f} bits per character"


@cache
def take(name: str) -> Shelved:
    """A model under weights/. Raises CheckpointError, in one sentence, if it is missing or damaged."""
    lm = load(name)
    path = WEIGHTS / name / "training.json"
    try:
        return Shelved(lm, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise CheckpointError(f"{path} is missing or damaged; restore it with `git checkout -- weights/{name}`") from None


def shelf() -> list[Shelved]:
    """All the models, the simplest first. Raises CheckpointError if there is none, or one is damaged."""
    if not names():
        raise CheckpointError(f"{WEIGHTS} has no models; restore them with `git checkout -- weights`")
    return sorted((take(name) for name in names()), key=lambda shelved: shelved.lm.parameters)


def _short(count: int) -> str:
    """A count as a person says it: 4,225 or 2.7 million."""
    return f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,}"
