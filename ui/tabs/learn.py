"""The tab Watch it learn: a text from the same prompt and seed, written at several moments of a model's training."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.routing import BaseRoute, Route

from gpt import hub
from gpt.checkpoint import REPLAY
from ui.endpoints import json_endpoint
from ui.model_registry import ModelEntry, get_model, list_models
from ui.schema import ModelId

TITLE = "Watch it learn"
MAX_REPLAY_BYTES = 4_000_000  # about ten points, each of 150 distributions of at most 400 bytes, in base64


def replay_path(entry: ModelEntry) -> Path | None:
    """The file with the replay of a model, if there is one."""
    folder = entry.folder
    if entry.commit:
        with suppress(hub.HubError):
            folder = hub.find_snapshot(entry.source, entry.commit, [REPLAY], local_files_only=True)
    return folder / REPLAY if folder and (folder / REPLAY).is_file() else None


def replays() -> list[str]:
    """The ids of the models that the page always offers and that have a replay."""
    return [entry.id for entry in list_models() if replay_path(entry)]


def replay(model: ModelId) -> dict[str, Any]:
    """The replay of a model.

    Args:
        model: Its id.

    Returns:
        Its prompt, its points, and the loss curve of its run. All losses are in bits per character.

    Raises:
        ValueError: If it has none, or the file is damaged.
    """
    entry = get_model(model)
    path = replay_path(entry)
    if path is None:
        raise ValueError(f"{entry.lm.name} has no recording of its training.")
    try:
        if path.stat().st_size > MAX_REPLAY_BYTES:
            raise ValueError
        recorded = json.loads(path.read_text(encoding="utf-8"))
        log = entry.training_log
        held_out, baselines = log["held_out"], log["baselines"]  # the latter are in nats a character
        bits_per_nat = held_out["bits_per_character"] / held_out["nats_per_token"]
        uniform, bigram = (each / math.log(2) for each in (baselines["uniform"], baselines["bigram"]))
        points = [
            {
                **{name: point[name] for name in ("step", "tokens", "temperature", "token_ids", "distributions")},
                **{name: _in_bits(point[name], bits_per_nat) for name in ("train", "held_out")},
            }
            for point in recorded["points"]
        ]
        curve = [
            {"step": point["step"]} | {name: _in_bits(point[name], bits_per_nat) for name in ("train", "held_out")}
            for point in log["curve"]
        ]
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):  # JSON with anything in it
        raise ValueError(f"The recording of the training of {entry.lm.name} is damaged.") from None
    return {"prompt": recorded["prompt"], "points": points, "curve": curve, "uniform": uniform, "bigram": bigram}


def _in_bits(nats: float | None, bits_per_nat: float) -> float | None:
    return None if nats is None else nats * bits_per_nat


def routes() -> list[BaseRoute]:
    """What the tab's script requests."""
    return [Route("/page/replays", json_endpoint(replays)), Route("/page/replay/{model:path}", json_endpoint(replay))]
