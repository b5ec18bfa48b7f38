"""The tab "Three families": lines drawn by models of every family, a latent walk, a replay of a training, and a game.

What the bars on the tab show was measured by `benchmarks/bench_families.py`.
"""

import hashlib
import json
import math
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Annotated, Any

from pydantic import Field
from starlette.routing import BaseRoute, Route

from gpt import CheckpointError, LatentModel
from gpt.lines import sample_lines
from gpt.models.gan import TextGAN
from gpt.models.latent_diffusion import TextLatentDiffusion, line_traits
from gpt.sampling import MAX_SEED
from train.data import SOURCES, load_shipped_dataset
from ui.endpoints import json_endpoint
from ui.model_registry import ModelEntry, list_models
from ui.schema import ModelId, Seed
from ui.tabs.learn import replay_path

FAMILIES = ("ngram", "gpt", "vae", "gan", "diffusion", "latent-diffusion")  # the best model of each takes part
TEXTS = {"names": ("name", 12), "shakespeare": ("line", 4)}  # by data set: what a line is called, and how many are drawn
MEASURES = Path(__file__).with_name("family_measures.json")
WISHES = {"names": 24, "shakespeare": 12}  # lines that are drawn under conditions
MAX_GUIDANCE = 10
MAX_CONDITIONS = 8
GAME_TEXT = "names"
ROUNDS = 12
DRAWS_PER_MODEL = 20  # from which the generated names of a game are chosen
WALK_STEPS = 15
MAX_REPLAY_BYTES = 1_000_000


def stage_models(text: str) -> list[ModelEntry]:
    """The best model of characters of each family that draws lines of a text.

    Args:
        text: A data set: a key of `TEXTS`.
    """
    entries = {entry.id: entry for ability in ("writes", "draws") for entry in list_models(ability)}
    found = []
    for family in FAMILIES:
        candidates = [
            entry
            for entry in entries.values()
            if entry.family.name == family
            and entry.lm.tokenizer.unit == "character"
            and entry.training_log.get("data", {}).get("sha256") == SOURCES[text].sha256
        ]
        found += sorted(candidates, key=_loss)[:1]
    return found


def _loss(entry: ModelEntry) -> float:
    return float(entry.training_log.get("held_out", {}).get("bits_per_character", math.inf))


def identify(entry: ModelEntry) -> str:
    """What changes when the weights of a model change: the sha256 of its training log."""
    return hashlib.sha256(json.dumps(entry.training_log, sort_keys=True).encode()).hexdigest()


def _read_measures() -> dict[str, Any]:
    measures: dict[str, Any] = json.loads(MEASURES.read_text(encoding="utf-8"))
    return measures


def list_families() -> dict[str, Any]:
    """What the tab shows before anything is drawn.

    Returns:
        "texts": for each data set its "name", "noun", "floor" (the measures of training lines) and "models", each with its
        "measures", or null if other weights were measured. "replays": the ids of models whose training can be watched.
        "wishes": the models that draw lines under conditions, and the values of each.
        "has_gan": whether there are a walk and a game. "run": how it was measured.
    """
    measured = _read_measures()
    texts = []
    for name, (noun, count) in TEXTS.items():
        of_text = measured["texts"].get(name, {"floor": None, "models": {}})
        models = [
            {
                "id": entry.id,
                "family": entry.family.name,
                "label": entry.label,
                "card": f"weights/{entry.id}/README.md" if entry.folder else None,
                "measures": _measures_of(entry, of_text["models"]),
            }
            for entry in stage_models(name)
        ]
        if models:
            texts.append({"name": name, "noun": noun, "count": count, "floor": of_text["floor"], "models": models})
    return {
        "texts": texts,
        "run": {name: measured[name] for name in ("command", "date", "machine")},
        "replays": [
            {
                "id": entry.id,
                "family": entry.family.name,
                "label": entry.label,
                "dataset": entry.training_log["data"]["name"],
            }
            for entry in _replayable()
        ],
        "wishes": [
            {"id": entry.id, "noun": TEXTS[text][0], "dataset": text, "conditions": entry.lm.conditions}
            for text, entry in _conditional_models()
        ],
        "has_gan": _find_gan() is not None,
    }


def _measures_of(entry: ModelEntry, measured: dict[str, Any]) -> dict[str, Any] | None:
    measures: dict[str, Any] = measured.get(entry.id, {})
    return measures if measures.get("training_log") == identify(entry) else None


def draw(model: ModelId, seed: Seed) -> dict[str, Any]:
    """Lines drawn by a model.

    Args:
        model: The id of one of `stage_models`.
        seed: 0 to 2**32 - 1.

    Raises:
        ValueError: In a sentence for the visitor.
    """
    for text, (_, count) in TEXTS.items():
        if any(entry.id == model for entry in stage_models(text)):
            return {"lines": _draw(text, model, count, seed)}
    raise ValueError(f"{model[:60]!r} is none of the models on this stage.")


@lru_cache(maxsize=256)
def _draw(text: str, id: str, n: int, seed: int) -> list[str]:
    """`n` lines by one of `stage_models`, given by its id."""
    (entry,) = (entry for entry in stage_models(text) if entry.id == id)
    return sample_lines(entry.lm, n, seed)


def _conditional_models() -> list[tuple[str, ModelEntry]]:
    """The data sets and the models that draw lines under conditions."""
    return [(text, entry) for text in TEXTS for entry in stage_models(text) if isinstance(entry.lm, TextLatentDiffusion)]


Condition = Annotated[
    dict[str, str], Field(max_length=MAX_CONDITIONS, description="values of conditions by name, such as the first letter")
]
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE, description=f"a number from 0 to {MAX_GUIDANCE}")]


def wish(model: ModelId, condition: Condition, guidance: Guidance, seed: Seed) -> dict[str, Any]:
    """Lines drawn under conditions.

    Args:
        model: The id of one of `_conditional_models`.
        condition: Values of some of its conditions, by name.
        guidance: 0 to `MAX_GUIDANCE`.
        seed: 0 to 2**32 - 1.

    Returns:
        "lines", and "met": whether each of them meets all conditions.

    Raises:
        ValueError: In a sentence for the visitor.
    """
    for text, entry in _conditional_models():
        if entry.id == model:
            if any(value not in entry.lm.conditions.get(name, ()) for name, value in condition.items()):
                raise ValueError(f"{entry.id} does not know this wish; it knows {', '.join(entry.lm.conditions)}.")
            lines = entry.lm.sample(WISHES[text], seed, condition, guidance)
            return {"lines": lines, "met": [condition.items() <= line_traits(line).items() for line in lines]}
    raise ValueError(f"{model[:60]!r} takes no wishes.")


def _find_gan() -> TextGAN | None:
    """The GAN of names."""
    return next((entry.lm for entry in stage_models(GAME_TEXT) if isinstance(entry.lm, TextGAN)), None)


def walk(seed: Seed) -> dict[str, Any]:
    """Two walks between the same two names: one through the latent space of the GAN, one through that of the VAE.

    The GAN has no encoder, so it draws the names, and the VAE encodes them.

    Args:
        seed: 0 to 2**32 - 1.

    Raises:
        ValueError: In a sentence for the visitor, if there is no GAN or no VAE.
    """
    gan = _find_gan()
    vae = next((entry.lm for entry in stage_models(GAME_TEXT) if isinstance(entry.lm, LatentModel)), None)
    if gan is None or vae is None:
        raise ValueError("This page has no GAN and VAE of names to walk through.")
    start, end = (_nonempty_latent(gan, first) for first in (2 * seed % MAX_SEED, (2 * seed + 1) % MAX_SEED))
    lines = gan.interpolate(start, end, WALK_STEPS)
    return {"gan": lines, "vae": vae.interpolate(lines[0], lines[-1], WALK_STEPS)}


def _nonempty_latent(gan: TextGAN, seed: int) -> Any:
    """The latent vector of a seed, or of the next one whose line has a character."""
    while not gan.decode([gan.latent(seed)])[0]:
        seed = (seed + 1) % MAX_SEED
    return gan.latent(seed)


def _replayable() -> list[ModelEntry]:
    """The models of which lines were drawn during the training, whose own log has no likelihood."""
    entries = (entry for text in TEXTS for entry in stage_models(text))
    return [entry for entry in entries if entry.family.likelihood == "none" and replay_path(entry)]


def replay(model: ModelId) -> dict[str, Any]:
    """Lines that a model drew at several moments of its training, from the same latent vectors.

    Args:
        model: Its id.

    Returns:
        "points", for each: "step", "lines", "distance" (the divergence of their triples of characters from those of held-out
        lines), and of a GAN the losses "discriminator" and "generator", null before training.

    Raises:
        ValueError: In a sentence for the visitor, if it has none, or the file is damaged.
    """
    entry = next((entry for entry in _replayable() if entry.id == model), None)
    path = entry and replay_path(entry)
    if not entry or not path:
        raise ValueError(f"{model[:60]!r} has no recording of lines drawn during its training.")
    try:
        if path.stat().st_size > MAX_REPLAY_BYTES:
            raise ValueError
        points = [
            {"step": point["step"], "lines": [str(line) for line in point["lines"]], "distance": point["held_out"]}
            | {name: point[name] for name in ("discriminator", "generator") if name in point}
            for point in json.loads(path.read_text(encoding="utf-8"))["points"]
        ]
        if not points:
            raise ValueError
    except (ValueError, LookupError, TypeError, RecursionError):  # JSON with anything in it
        raise ValueError(f"The recording of the training of {entry.lm.name} is damaged.") from None
    return {"points": points}


def play(seed: Seed) -> dict[str, Any]:
    """The rounds of a game: a real name that no model has seen beside a generated one.

    Args:
        seed: 0 to 2**32 - 1.

    Returns:
        "rounds", for each: "names", two of them; "real", the index of the real one; "model", who drew the other; "critic",
        the index of the one that the discriminator of the GAN chooses; and "percentiles", for both the share of real names
        that look less real to it.

    Raises:
        ValueError: In a sentence for the visitor.
    """
    gan = _find_gan()
    if gan is None:
        raise ValueError("This page has no GAN, so there is no critic to play against.")
    try:
        dataset = load_shipped_dataset(SOURCES[GAME_TEXT].sha256, True)
    except CheckpointError:
        raise ValueError("The names are damaged on this server, so there is no game.") from None
    assert dataset is not None  # noqa: S101 (it is one of SOURCES)
    train, held_out = dataset.split()
    known, rng = set(dataset.documents), Random(seed)  # noqa: S311 (not for secrets)
    real = rng.sample(sorted(set(held_out.documents) - set(train.documents)), ROUNDS)
    players = stage_models(GAME_TEXT)
    generated: list[tuple[str, str]] = []  # a name, and who drew it
    for entry in players:
        new = set(_draw(GAME_TEXT, entry.id, DRAWS_PER_MODEL, rng.randrange(MAX_SEED))) - known
        new = {name for name in new if 0 < len(name) < gan.context_length}  # which the critic can read
        chosen = rng.sample(sorted(new), min(math.ceil(ROUNDS / len(players)), len(new)))
        generated += [(name, entry.id) for name in chosen]
    rng.shuffle(generated)
    rounds = []
    for name, (other, model) in zip(real, generated, strict=False):
        place = rng.randrange(2)
        names = [name, other] if place == 0 else [other, name]
        scores, percentiles = gan.scores(names), gan.discriminate(names)
        critic = int(scores[1] > scores[0])
        rounds.append({"names": names, "real": place, "model": model, "critic": critic, "percentiles": percentiles})
    return {"rounds": rounds}


def routes() -> list[BaseRoute]:
    """What the tab's scripts request."""
    return [
        Route("/page/families", json_endpoint(list_families)),
        Route("/page/families/replay/{model:path}", json_endpoint(replay)),
        *(
            Route(f"/page/families/{name}", json_endpoint(function), methods=["POST"])
            for name, function in (("draw", draw), ("walk", walk), ("wish", wish), ("play", play))
        ),
    ]
