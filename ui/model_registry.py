"""The models that the page offers: the shipped ones, those of `--model`, a few from the Hub, and those that visitors trained."""

import json
import math
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpt import hub, load
from gpt.checkpoint import FILES, HUB_ID, NEEDED, WEIGHTS, CheckpointError, download, names, open_folder
from gpt.models.registry import Ability, ModelFamily, family_of
from ui.isolated_tokenizer import IsolatedTokenizer

PINNED_MODELS = WEIGHTS / "hub.json"  # {repo: commit}: what a Space offers from the Hub, next to the models under weights/
MAX_MODEL_BYTES = 100_000_000  # of a model that a visitor may open
MAX_HUB_MODELS = 4  # models of visitors that stay open; the least recently used one is closed for another
OWN_PREFIX = "my-"  # of the ids of models that visitors trained
DOWNLOADS = (*FILES, "README.md")  # the files of a local model that visitors may download


@dataclass(frozen=True)
class ModelEntry:
    """An open model.

    Attributes:
        id: What links and API calls name it by: "gpt-shakespeare", or "user/repo@commit" with the exact weights.
        lm: The model: a `LanguageModel` if its family writes.
        training_log: The content of its training.json; empty if it has none.
        source: What `gpt.load` opens it by: a name under weights/, a folder, or "user/repo".
        commit: The commit, if it is from the Hub.
        folder: Its folder, if all visitors may download its files here.
        own_label: Of a model that a visitor trained, what the list of models calls it.
    """

    id: str
    lm: Any
    training_log: dict[str, Any]
    source: str
    commit: str = ""
    folder: Path | None = None
    own_label: str = ""

    @property
    def family(self) -> ModelFamily:
        """Its entry in the registry of model families."""
        return family_of(self.lm.model.config)

    @property
    def label(self) -> str:
        """What the list of models calls it: the family of a shipped model, and the name of another one."""
        if self.own_label:
            return self.own_label
        if self.id not in names():
            return str(self.lm.name)
        family = self.family.title.partition(" ")[2]
        return family[0].upper() + family[1:] + (" on word pieces" if self.lm.tokenizer.unit == "token" else "")

    @property
    def memory(self) -> str:
        """How much of a text it uses for the next token, in words."""
        family = self.family
        return family.memory(self.lm.model.config) if family.memory else f"sees {self.lm.context_description}"

    @property
    def explanation(self) -> str:
        """A sentence for beginners on how it works."""
        return self.family.explain(self.lm.model.config, self.lm.tokenizer.unit)

    @property
    def sample(self) -> dict[str, Any] | None:
        """A text that it wrote at the end of its training run, with the settings that write it again."""
        return self.training_log.get("sample")

    def files(self) -> list[Path]:
        """Its files that visitors may download here."""
        return [path for name in DOWNLOADS if self.folder and (path := self.folder / name).is_file()]


def _bits_per_character(entry: ModelEntry) -> float:
    """Of the held-out text; infinite for a family without likelihood."""
    return float(entry.training_log.get("held_out", {}).get("bits_per_character", math.inf))


@cache
def _shipped_models() -> list[ModelEntry]:
    """The models under weights/ and those that a Space pins, sorted by text, the longest first, then from worst to best."""
    pinned = json.loads(PINNED_MODELS.read_text(encoding="utf-8")) if PINNED_MODELS.is_file() else {}
    if not names() and not pinned:
        raise CheckpointError(f"{WEIGHTS} has no models; restore them with `git checkout -- weights`")
    entries = [
        ModelEntry(
            name, load(name), read_training_log(folder, f"restore it with `git checkout -- weights/{name}`"), name, "", folder
        )
        for name, folder in ((name, WEIGHTS / name) for name in names())
    ]
    entries.sort(key=lambda e: (-e.training_log["data"]["characters"], -_bits_per_character(e)))
    for repo, commit in pinned.items():
        lm = load(repo, commit)
        log = read_training_log(hub.find_snapshot(repo, commit, NEEDED, local_files_only=True) or WEIGHTS, "publish it again")
        entries.append(ModelEntry(f"{repo}@{commit}", lm, log, repo, commit))
    return entries


_local_models: dict[str, ModelEntry] = {}  # of `--model`, by id
_hub_models: OrderedDict[str, ModelEntry] = OrderedDict()  # of visitors, by id, the least recently used first
# Those that the visitor trained whose request is answered, by id (ui/visits.py). Nobody else can name them.
own_models: ContextVar[Mapping[str, ModelEntry]] = ContextVar("own_models", default=MappingProxyType({}))
_lock = threading.Lock()
_downloader = ThreadPoolExecutor(1)  # one model at a time: a class that opens one link downloads it once


def add_local_model(folder: str) -> None:
    """Offer the model in a folder, as `python -m train run --out` writes it.

    Raises:
        CheckpointError: If the folder has no model, or its name is taken.
    """
    if not os.path.isdir(folder):
        raise CheckpointError(f"there is no folder {folder}; give the folder that `python -m train run --out` wrote")
    path = Path(folder)
    lm = load(os.path.join(folder, ""))  # with a slash at the end, it is never a name under weights/
    taken = _local_models.get(lm.name)
    if lm.name in names() or (taken and taken.source != folder):
        raise CheckpointError(f"there are two models called {lm.name}; rename the folder {folder}")
    log = read_training_log(path, "train the model again") if (path / "training.json").exists() else {}
    _local_models[lm.name] = ModelEntry(lm.name, lm, log, folder, "", path)


def list_models(ability: Ability = "writes") -> list[ModelEntry]:
    """The models with an ability that the page always offers: those of `--model`, then the shipped ones.

    Args:
        ability: See `gpt.models.registry.Ability`.

    Raises:
        CheckpointError: If there is none, or a shipped one is missing or damaged.
    """
    return [entry for entry in (*_local_models.values(), *_shipped_models()) if ability in entry.family.abilities]


def default_model() -> ModelEntry:
    """The model that the page opens with.

    The first of `--model`, else the last that a Space pins, else the best trained one of the first text with exact
    likelihoods: it is one model, not two, and continues any prompt. Only models with a sample count.
    """
    shipped = [entry for entry in _shipped_models() if entry.sample and "writes" in entry.family.abilities]
    text = shipped[0].training_log["data"]["sha256"]
    own = [entry for entry in _local_models.values() if entry.sample and "writes" in entry.family.abilities]
    pinned = [entry for entry in reversed(shipped) if entry.commit]
    best = [e for e in shipped if e.training_log["data"]["sha256"] == text and e.family.task and e.family.likelihood == "exact"]
    return [*own, *pinned, *reversed(best), *shipped][0]


def model_ids() -> list[str]:
    """The ids of all open models, those of the visitor included."""
    with _lock:
        return [*(entry.id for entry in list_models()), *_hub_models, *own_models.get()]


def is_open(entry: ModelEntry) -> bool:
    """Whether a model is not one from the Hub that was closed for another."""
    with _lock:
        return not entry.commit or entry in _shipped_models() or _hub_models.get(entry.id) is entry


def get_model(id: str, ability: Ability | None = "writes") -> ModelEntry:
    """An open model by its id.

    Args:
        id: Its id.
        ability: What it must be able to do; None for any model.

    Raises:
        ValueError: In a sentence for the visitor, if there is none, it is another visitor's, or it cannot do that.
    """
    entry = _find_model(id)
    if ability and ability not in entry.family.abilities:
        others = ", ".join(other.id for other in list_models(ability))
        raise ValueError(f"{id[:80]} is {entry.family.title}, which cannot do this; pick one of {others}.")
    return entry


def _find_model(id: str) -> ModelEntry:
    if own := own_models.get().get(id):
        return own
    for entry in (*_local_models.values(), *_shipped_models()):
        if id == entry.id:
            return entry
    with _lock:
        if id in _hub_models:
            _hub_models.move_to_end(id)
            return _hub_models[id]
    if HUB_ID.fullmatch(id.partition("@")[0]):
        raise ValueError(f"The model {id[:80]} is not open here (any more); open it from the Hub again.")
    if id.startswith(OWN_PREFIX):
        raise ValueError(f"The model {id[:60]!r} belongs to another visit, or to one that is over; train it again.")
    raise ValueError(f"There is no model called {id[:60]!r} here; pick one of {', '.join(e.id for e in list_models())}.")


@dataclass
class _Download:
    """A model on its way from the Hub."""

    folder: str = ""
    total: int = 0

    def progress(self) -> tuple[int, int]:
        """Bytes so far, and in all."""
        done = 0
        for folder, _, files in os.walk(self.folder):  # os.walk skips folders that vanish meanwhile, as we do files
            for name in files:
                with suppress(OSError):
                    done += os.lstat(os.path.join(folder, name)).st_size
        return min(done, self.total), self.total

    def run(self, repo: str, commit: str | None) -> ModelEntry:
        """Open the model, unless it is open already."""
        if commit is None or f"{repo}@{commit}" not in model_ids():
            files = hub.list_files(repo, commit, token=False)  # anonymous: a visitor must not see what the host may
            commit, self.total = files.commit, sum(files.sizes.get(name, 0) for name in FILES)
        id = f"{repo}@{commit}"
        if id in model_ids():
            return get_model(id)
        if self.total > MAX_MODEL_BYTES:
            size, most = self.total / 1e6, MAX_MODEL_BYTES / 1e6
            raise CheckpointError(f"{repo} has {size:,.0f} MB; this page opens models of up to {most:,.0f} MB")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as self.folder:
            folder = download(repo, commit, Path(self.folder), hub.NullProgress, False)
            lm = open_folder(folder, repo, repo, "give another model, or tell its author")
        lm.tokenizer = IsolatedTokenizer(lm.tokenizer.backend)
        entry = ModelEntry(id, lm, {}, repo, commit)
        if "writes" not in entry.family.abilities:
            raise CheckpointError(f"{repo} is {entry.family.title}; this page opens models that write from left to right")
        with _lock:
            _hub_models[id] = entry
            while len(_hub_models) > MAX_HUB_MODELS:
                _hub_models.popitem(last=False)
        return entry


def open_hub_model(repo: str, commit: str | None = None) -> Generator[tuple[int, int], None, ModelEntry]:
    """Open a public model from the Hub for all visitors; yields bytes so far and in all, returns the model.

    Nothing stays on the disk. If the visitor leaves, a download that has begun is finished for the others.

    Args:
        repo: "user/repo".
        commit: Its commit; that of the main branch by default.

    Raises:
        CheckpointError: If it is no model that opens here.
        HubError: If the Hub does not answer, or not with a model.
    """
    model = _Download()
    job = _downloader.submit(model.run, repo, commit)
    try:
        while wait([job], timeout=0.2).not_done:
            yield model.progress()
        return job.result()
    finally:
        job.cancel()  # if its turn has not come


def read_training_log(folder: Path, hint: str) -> dict[str, Any]:
    """The content of the training.json of a weights folder.

    Raises:
        CheckpointError: If it is missing or damaged; the message ends in the hint.
    """
    path = folder / "training.json"
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        log = None
    if not isinstance(log, dict):
        raise CheckpointError(f"{path} is missing or damaged; {hint}")
    return log
