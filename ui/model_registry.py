"""The models that the page offers: its own, each opened once, and a few that visitors opened from the Hub."""

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from gpt import LanguageModel, hub, load
from gpt.checkpoint import FILES, HUB_ID, NEEDED, WEIGHTS, CheckpointError, NullProgress, fetch, names
from gpt.models.base import UNBOUNDED_CONTEXT
from gpt.scheduler import BatchScheduler

PINNED_MODELS = WEIGHTS / "hub.json"  # {repo: commit}: what a Space offers from the Hub, beside the models under weights/
MOST = 100_000_000  # bytes of a model that a visitor may open

# What each rung of the ladder adds to the one below it.
ABOUT = {
    "bigram": "Counts which character follows which, and knows nothing else.",
    "ngram": "Counts what followed the last {window} characters; where the text never had those, the last {less}, and so on. "
    "Nothing is learned, and yet a neural network has to be trained well to beat it.",
    "lstm": "Reads the text once, from left to right, and has to carry along in {numbers} numbers whatever may matter later.",
    "vae": "Turns a line into {latent} numbers and back, so that new lines can be drawn, and any two have others between them.",
    "gpt": "Learns what to look for in a whole passage, and need not have seen the same words before.",
    "sub-words": "A GPT that reads and writes pieces of words: they were found by joining the two neighbours that are most "
    "often together in the text, again and again, from single characters on.",
    "mixture": "Takes the mean of {parts}: where one errs, the other often does not.",
}

MAX_HUB_MODELS = 4  # models of visitors that stay open; whichever was not used for longest makes room


@dataclass(frozen=True)
class ModelEntry:
    """An open model, its training.json, and the commit if it is from the Hub."""

    lm: LanguageModel
    facts: dict[str, Any]
    commit: str = ""

    @property
    def id(self) -> str:
        """By which links and programs name these very weights: "gpt-shakespeare", or "user/repo@commit"."""
        return f"{self.lm.name}@{self.commit}" if self.commit else self.lm.name

    @cached_property
    def desk(self) -> BatchScheduler:
        """Where it writes for visitors."""
        return BatchScheduler(self.lm)

    @property
    def sees(self) -> str:
        unit = self.lm.tokenizer.unit
        if self.lm.window == 1:
            return f"1 {unit}"
        if self.lm.end_id is not None:
            return "the line so far"
        return "all before" if self.lm.window == UNBOUNDED_CONTEXT else f"the last {self.lm.window} {unit}s"

    @property
    def label(self) -> str:
        """Name, what it sees, size and quality: its line in the list of models."""
        held_out = self.facts.get("held_out")
        quality = f"{held_out['bits_per_character']:.2f} bits per character" if held_out else "from the Hub"
        return f"{self.lm.name}\nsees {self.sees} · {_short(self.lm.parameters)} parameters · {quality}"

    @property
    def about(self) -> str:
        """What it adds to the model before it, if it is one of the page's own."""
        window, config, kind = self.lm.window, self.lm.model.config, self.facts.get("kind", "")
        if kind == "gpt" and self.lm.tokenizer.unit == "token":
            kind = "sub-words"
        return ABOUT.get(kind, "").format(
            window=window,
            less=window - 1,
            parts=" and ".join(part["name"] for part in self.facts.get("parts", ())),
            numbers=f"{2 * getattr(config, 'num_hidden_layers', 0) * getattr(config, 'hidden_size', 0):,}",
            latent=getattr(config, "latent_size", 0),
        )


@cache
def shelf() -> list[ModelEntry]:
    """The page's own models, a ladder for each text, the longest text first: of those that learned from it, the best last.

    Raises CheckpointError, in one sentence, if there is none, or one is missing or damaged.
    """
    pinned = json.loads(PINNED_MODELS.read_text(encoding="utf-8")) if PINNED_MODELS.is_file() else {}
    if not names() and not pinned:
        raise CheckpointError(f"{WEIGHTS} has no models; restore them with `git checkout -- weights`")
    own = [
        ModelEntry(load(name), _facts(WEIGHTS / name, f"restore it with `git checkout -- weights/{name}`")) for name in names()
    ]
    own.sort(key=lambda shelved: (-shelved.facts["data"]["characters"], -shelved.facts["held_out"]["bits_per_character"]))
    for repo, commit in pinned.items():
        lm = load(repo, commit)
        own.append(ModelEntry(lm, _facts(hub.cached(repo, commit, NEEDED) or WEIGHTS, "publish it again"), commit))
    return own


def default() -> ModelEntry:
    """The model that the page opens with: what a Space was made for, else the best of the first ladder that is one model,
    not two."""
    text = shelf()[0].facts["data"]["sha256"]
    fit = [each for each in shelf() if each.facts["data"]["sha256"] == text and each.facts["kind"] not in ("mixture", "vae")]
    return next((each for each in reversed(shelf()) if each.commit), (fit or shelf())[-1])


_hub_models: OrderedDict[str, ModelEntry] = OrderedDict()
_lock = threading.Lock()
_fetcher = ThreadPoolExecutor(1)  # one model at a time: a class that opens one link fetches it once


def offered() -> list[str]:
    """The ids of all models that are open."""
    with _lock:
        return [shelved.id for shelved in shelf()] + list(_hub_models)


def take(id: str) -> ModelEntry:
    """An open model by its id. Raises ValueError, in a sentence for the visitor, if there is none."""
    for shelved in shelf():
        if id == shelved.id:
            return shelved
    with _lock:
        if id in _hub_models:
            _hub_models.move_to_end(id)
            return _hub_models[id]
    if HUB_ID.fullmatch(id.partition("@")[0]):
        raise ValueError(f"The model {id[:80]} is not open here (any more); open it from the Hub again.")
    own = ", ".join(shelved.id for shelved in shelf())
    raise ValueError(f"There is no model called {id[:60]!r} here; pick one of {own}.")


@dataclass
class _Fetch:
    """One model on its way from the Hub: how many bytes have come, and how many will."""

    aside: Path | None = None
    total: int = 0

    def progress(self) -> tuple[int, int]:
        come = 0
        for folder, _, found in os.walk(self.aside or ""):  # os.walk passes over what has gone meanwhile, and so do we
            for name in found:
                with suppress(OSError):
                    come += os.lstat(os.path.join(folder, name)).st_size
        return min(come, self.total), self.total

    def run(self, repo: str, commit: str | None) -> ModelEntry:
        if (id := f"{repo}@{commit}") in offered():
            return take(id)
        sizes = hub.find(repo, commit, token=False)  # nobody's: a visitor must not see what the host may
        self.total = sum(sizes.get(name, 0) for name in FILES)
        if self.total > MOST:
            raise CheckpointError(f"{repo} has {self.total / 1e6:,.0f} MB; this page opens models of up to {MOST / 1e6:,.0f} MB")
        with hub.aside() as self.aside:
            folder, lm = fetch(repo, commit, sizes, self.aside, NullProgress, False)
            shelved = ModelEntry(lm, {}, folder.name)
        with _lock:
            _hub_models[shelved.id] = shelved
            while len(_hub_models) > MAX_HUB_MODELS:
                _hub_models.popitem(last=False)
        return shelved


def fetched(repo: str, commit: str | None = None) -> Generator[tuple[int, int], None, ModelEntry]:
    """Open a public model from the Hub for all visitors; yields bytes so far and in all, returns the model.

    Nothing of it stays on the disk. If the visitor leaves, what has begun is finished for the others. Raises
    CheckpointError or HubError, in one sentence.
    """
    fetch = _Fetch()
    job = _fetcher.submit(fetch.run, repo, commit)
    try:
        while wait([job], timeout=0.2).not_done:
            yield fetch.progress()
        return job.result()
    finally:
        job.cancel()  # if its turn has not come


def _facts(folder: Path, mend: str) -> dict[str, Any]:
    path = folder / "training.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"{path} is missing or damaged; {mend}") from None
    return facts


def _short(count: int) -> str:
    """A count as a person says it: 4,225 or 2.7 million."""
    return f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,}"
