"""The model card and the loss curve of a weights folder, both made from the training.json of a run."""

import json
import math
import re
import shlex
from html import escape
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from gpt.generation import describe_context
from gpt.models.registry import MODEL_REGISTRY
from gpt.tokenizer import NEWLINE

PROJECT = "from-bigram-to-gpt"
TEMPLATE = Path(__file__).with_name("card_template.md")
Facts = dict[str, Any]  # the content of training.json


def model_reference(folder: Path) -> str:
    """The name by which a card calls a local model: a relative path as it is, of an absolute one only the last part."""
    return folder.as_posix() if folder.name and not folder.is_absolute() else folder.resolve().name


def render_card(facts: Facts, model: str) -> str:
    """The README.md of a weights folder.

    Args:
        facts: The content of its training.json.
        model: What the card's commands pass to `gpt.load`: a name under weights/, a path, or a Hub id.
    """
    family, unit, data, held_out = MODEL_REGISTRY[facts["kind"]], _unit(facts), facts["data"], facts["held_out"]
    sample, is_char = facts["sample"], facts["tokenizer"] == "char"
    title = model.rstrip("/").rpartition("/")[2]
    card_data = ModelCardData(
        language="en" if data["name"] == "shakespeare" else None,
        license="mit" if data["license"] else "unknown",  # the license of a user's own text is not known
        library_name="transformers" if family.in_transformers else "safetensors",
        pipeline_tag="text-generation",
        tags=[PROJECT, *(["character-level"] if is_char else []), family.name],
        datasets=[data["dataset"]] if data["dataset"] else None,
        model_name=title,
        eval_results=[
            EvalResult(
                "text-generation",
                data["dataset"] or "text",
                data["name"],
                "bits_per_character",
                round(held_out["bits_per_character"], 4),
                metric_name="bits per character, held out",
            )
        ],
    )
    measured = f"{held_out['tokens']:,} {unit}s" + (f" in {held_out['lines']:,} lines" if "lines" in held_out else "")
    settings = {name: sample[name] for name in ("temperature", "max_new_tokens", "seed")}
    text = sample["prompt"] + sample["text"]
    dtype = str(family.storage_dtype).removeprefix("torch.")
    values: dict[str, Any] = {
        "title": title,
        "description": family.description.format(unit=unit),
        "unit": unit,
        "vocabulary": "" if is_char else f" out of {facts['vocabulary']:,} ({facts['tokenizer']})",
        "context": describe_context(facts["context_length"], unit, "lines" in data),
        "parameters": f"{facts['parameters']:,}",
        "data": data,
        "source": f" ({data['license']}, <{data['url']}>)" if data["url"] else "",
        "warning": facts.get("warning", "")
        if facts["finished"]
        else "the run has not finished; this is its best checkpoint so far",
        "split": data["split"] + (f"; {data['lines']:,} lines" if "lines" in data else ""),
        "held_out": measured,
        "rows": _comparison(facts),
        "bits_per_byte": f"{held_out['bits_per_byte']:.4f}",
        "bound": _describe_bound(facts) if family.likelihood == "bound" else "",
        "selection": _describe_selection(facts),
        "curve": facts["curve"],
        "latent": _latent_space(facts),
        "prompt": sample["prompt"],
        "settings": ", ".join(f"{name}={value}" for name, value in settings.items()),
        "fence": "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0)),  # longer than any in the text
        "text": text,
        "model": json.dumps(model, ensure_ascii=False),
        "model_argument": shlex.quote(model),
        "prompt_literal": repr(sample["prompt"]),
        "prompt_argument": shlex.quote(sample["prompt"]),
        "prompt_or_start": repr(sample["prompt"] or NEWLINE),  # transformers cannot start from nothing
        "flags": "--temperature {temperature} --length {max_new_tokens} --seed {seed}".format(**settings),
        "in_transformers": family.in_transformers,
        "unknown_chars": " Characters that the text does not contain are skipped in a prompt." if is_char else "",
        "command": facts["command"],
        "method": _describe_method(facts),
        "duration": format_duration(facts["seconds"]),
        "machine": facts["machine"],
        "date": facts["started"][:10],
        "figures": "The figures are from `training.json`"
        + ("." if family.storage_dtype == torch.float32 else f"; the held-out loss is that of the stored {dtype} weights."),
    }
    return str(ModelCard.from_template(card_data, str(TEMPLATE), **values)) + "\n"


def render_loss_curve(facts: Facts, width: int = 640, height: int = 320) -> str:
    """An SVG of the training and held-out loss of a run over its steps, in nats per token.

    Args:
        facts: The content of training.json, with at least one point in "curve".
        width: In pixels.
        height: In pixels.
    """
    curve = facts["curve"]
    losses = [point[side] for point in curve for side in ("train", "held_out")]
    low, high = math.floor(min(losses) * 10) / 10, math.ceil(max(losses) * 10 + 0.1) / 10
    last = max(point["step"] for point in curve)
    left, top, right, bottom = 52, 16, width - 100, height - 40

    def position(step: float, loss: float) -> tuple[float, float]:
        return left + (right - left) * step / last, bottom - (bottom - top) * (loss - low) / (high - low)

    ticks = [low + (high - low) * i / 4 for i in range(5)]
    parts = [
        f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>'
        f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.2f}</text>'
        for tick in ticks
        for y in [position(0, tick)[1]]
    ]
    for side, label, color in (("train", "train", "#999"), ("held_out", "held out", "#b3471d")):
        points = [position(point["step"], point[side]) for point in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<circle cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="3" fill="{color}"/>')
        parts.append(f'<text x="{points[-1][0] + 8:.1f}" y="{points[-1][1] + 4:.1f}" fill="{color}">{label}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 26}" text-anchor="end">{last:,} steps</text>')
    parts.append(f'<text x="{left}" y="{bottom + 26}">nats per {_unit(facts)}</text>')
    title = escape(f"Loss of {facts['kind']} on {facts['data']['name']}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="13" fill="#333"><title>{title}</title>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def format_duration(seconds: float) -> str:
    """Seconds below 90, else minutes."""
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _unit(facts: Facts) -> str:
    return "character" if facts["tokenizer"] == "char" else "token"


def _comparison(facts: Facts) -> list[str]:
    """Rows of a table: the model, its parts and the baselines, in nats and bits per character."""
    mine, baselines = facts["held_out"]["bits_per_character"], facts["baselines"]
    bits = {"this model": mine}
    bits |= {part["name"]: part["held_out"]["bits_per_character"] for part in facts.get("parts", ())}
    bigram = baselines["bigram"] / math.log(2)
    if not math.isclose(bigram, mine, abs_tol=1e-9):  # else it is this model
        bits["baseline: bigram of characters"] = bigram
    bits["baseline: uniform over the characters"] = baselines["uniform"] / math.log(2)
    return [f"{name} | {each * math.log(2):.4f} | {each:.4f}" for name, each in bits.items()]


def _describe_bound(facts: Facts) -> str:
    samples = facts["held_out"].get("iwae_samples")
    how = f" with {samples} samples per line" if samples else ""
    return f"The exact loss is intractable; its figures are importance-weighted upper bounds{how}."


def _describe_selection(facts: Facts) -> str:
    """How checkpoints were selected on the held-out text, and by how much that can flatter the model."""
    curve, unit = facts["curve"], _unit(facts)
    if any(MODEL_REGISTRY[part["kind"]].task for part in facts.get("parts", ())):
        return "Checkpoints of its parts were selected on this text; their cards say by how much that can flatter them."
    if len(curve) < 2:
        return ""
    best, last = min(point["held_out"] for point in curve), curve[-1]["held_out"]
    selected = f"The checkpoint was selected on this text: it has the lowest loss of {len(curve)} evaluations during training."
    if last == best:
        return f"{selected} It is also the last one, so the selection did not flatter it."
    return (
        f"{selected} That can flatter it by up to {last - best:.4f} nats per {unit}, the difference between the last checkpoint "
        f"({last:.4f}) and the best ({best:.4f})."
    )


def _latent_space(facts: Facts) -> Facts | None:
    """The measurements of a latent variable model, as rows of a table."""
    latent = facts.get("latent")
    if latent is None:
        return None
    short, prior, n = latent["short_lines"], latent["prior_samples"], latent["mutual_information_lines"]
    rows = [
        ("reconstruction", f"{latent['reconstruction']:.2f} nats per line"),
        ("KL divergence", f"{latent['kl_divergence']:.2f} nats per line"),
        ("mutual information", f"{latent['mutual_information']:.2f} nats, of at most {math.log(n):.2f} with {n:,} lines"),
        ("active units", f"{latent['active_units']} of {facts['train_config']['latent']}"),
        (
            f"exact reconstructions of lines of up to {short['characters']} characters",
            f"{short['exact']:,} of {short['lines']:,} ({short['exact'] / max(1, short['lines']):.0%})",
        ),
        ("similarity of lines and reconstructions", f"{latent['mean_similarity']:.0%}"),
        (
            f"samples from the prior that are new lines of 1 to {prior['characters']} characters",
            f"{prior['new']:,} of {prior['lines']:,} ({prior['new'] / max(1, prior['lines']):.0%})",
        ),
        ("distinct samples from the prior", f"{prior['unique']:,} of {prior['lines']:,}"),
    ]
    return {"lines": f"{latent['lines']:,}", "rows": rows}


def _describe_method(facts: Facts) -> str:
    """How the weights came about."""
    unit = _unit(facts)
    if "parts" in facts:
        first, second = (part["name"] for part in facts["parts"])
        shares = f"A mixture of {facts['weight']:.1%} {first} and {1 - facts['weight']:.1%} {second}."
        return (
            f"{shares} The weight was fitted on the held-out text. The loss above is cross-fitted: each half of the text was "
            "scored with the weight that was fitted on the other half"
        )
    if "order" in facts:
        order, cutoff = facts["order"], facts["singleton_cutoff"]
        pruned = f" n-grams of more than {cutoff} {unit}s that occur once were left out." if cutoff < order else ""
        return f"Counts of n-grams of up to {order} {unit}s with {facts['smoothing']} smoothing.{pruned}".removesuffix(".")
    if not facts["curve"]:
        return f"Counts of pairs of {unit}s with add-k smoothing, k = {facts['k']}"
    teacher = f", on the probabilities of {facts['teacher']['name']} (distillation)" if "teacher" in facts else ""
    return f"{facts['steps']:,} steps of {facts['method']}{teacher}"
