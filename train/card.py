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
    family, unit, data = MODEL_REGISTRY[facts["kind"]], _unit(facts), facts["data"]
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
        base_model=_beside(model, facts["base_model"]["name"]) if "base_model" in facts else None,
        eval_results=_eval_results(facts),
    )
    shown = ("temperature", "max_new_tokens", "seed") if "max_new_tokens" in sample else sample.keys() - {"prompt", "text"}
    settings = {name: value for name, value in sample.items() if name in shown}
    draws_lines = "writes" not in family.abilities and "lines" in data
    text = sample["prompt"] + sample["text"]
    measured = "they are those" if family.likelihood == "none" else "the held-out loss is that"
    dtype = " and ".join(str(each).removeprefix("torch.") for each in (family.storage_dtype, family.layer_dtype) if each)
    values: dict[str, Any] = {
        "title": title,
        "description": family.description.format(unit=unit),
        "unit": unit,
        "writes": _describe_writing(facts),
        "parameters": f"{facts['parameters']:,}",
        "data": data,
        "source": f" ({data['license']}, <{data['url']}>)" if data["url"] else "",
        "warning": facts.get("warning", "")
        if facts["finished"]
        else "the run has not finished; this is its best checkpoint so far",
        "split": data["split"] + (f"; {data['lines']:,} lines" if "lines" in data else ""),
        "likelihood": _likelihood(facts),
        "samples": _samples(facts),
        "selection": _describe_selection(facts),
        "curve": _curve_title(facts) if facts["curve"] else "",
        "latent": _latent_space(facts),
        "prompt": sample["prompt"],
        "settings": ", ".join(f"{name}={value}" for name, value in settings.items()),
        "fence": "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0)),  # longer than any in the text
        "text": text,
        "python": _python_usage(facts, json.dumps(model, ensure_ascii=False), settings),
        "shell": f"python -m gpt --model {shlex.quote(model)} "
        + (
            f"--samples {text.count(NEWLINE) + 1} --seed {sample['seed']}"
            if draws_lines
            else f"--prompt {shlex.quote(sample['prompt'])} {_flags(settings)}"
        ),
        "model": json.dumps(model, ensure_ascii=False),
        "prompt_or_start": repr(sample["prompt"] or NEWLINE),  # transformers cannot start from nothing
        "in_transformers": family.in_transformers,
        "unknown_chars": " Characters that the text does not contain are skipped in a prompt."
        if is_char and not draws_lines
        else "",
        "command": facts["command"],
        "method": _describe_method(facts),
        "duration": format_duration(facts["seconds"]),
        "machine": facts["machine"],
        "date": facts["started"][:10],
        "figures": "The figures are from `training.json`"
        + ("." if family.storage_dtype == torch.float32 else f"; {measured} of the stored {dtype} weights."),
    }
    return str(ModelCard.from_template(card_data, str(TEMPLATE), **values)) + "\n"


def render_loss_curve(facts: Facts, width: int = 640, height: int = 320) -> str:
    """An SVG of the training and held-out loss of a run over its steps, in nats per token.

    Of a family without likelihood, it shows what the checkpoint was selected by: the divergence of 3-grams from held-out lines.
    The losses of a GAN or of denoising say little.

    Args:
        facts: The content of training.json, with at least one point in "curve".
        width: In pixels.
        height: In pixels.
    """
    curve = facts["curve"]
    has_likelihood = MODEL_REGISTRY[facts["kind"]].likelihood != "none"
    sides = [("train", "train", "#999")] if has_likelihood else []
    sides.append(("held_out", "held out" if has_likelihood else "JSD", "#b3471d"))
    losses = [point[side] for point in curve for side, _, _ in sides]
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
    for side, label, color in sides:
        points = [position(point["step"], point[side]) for point in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<circle cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="3" fill="{color}"/>')
        parts.append(f'<text x="{points[-1][0] + 8:.1f}" y="{points[-1][1] + 4:.1f}" fill="{color}">{label}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 26}" text-anchor="end">{last:,} steps</text>')
    y_label = f"nats per {_unit(facts)}" if has_likelihood else "divergence of 3-grams, in bits"
    parts.append(f'<text x="{left}" y="{bottom + 26}">{y_label}</text>')
    title = escape(f"{'Loss' if has_likelihood else 'Divergence of 3-grams'} of {facts['kind']} on {facts['data']['name']}")
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


def _beside(model: str, name: str) -> str:
    """The name of a model in the same folder as `model`, or of the same user."""
    return "/".join([*model.rstrip("/").split("/")[:-1], name])


def _eval_results(facts: Facts) -> list[EvalResult] | None:
    """The figure that the Hub shows: bits per character, or the divergence of 3-grams of a family without likelihood."""
    if "held_out" in facts:
        value, metric, name = facts["held_out"]["bits_per_character"], "bits_per_character", "bits per character, held out"
    elif "samples" in facts:
        value, metric = facts["samples"]["js_divergence"][2], "js_divergence_3_grams"
        name = "Jensen-Shannon divergence of 3-grams, held out"
    else:
        return None
    data = facts["data"]
    return [EvalResult("text-generation", data["dataset"] or "text", data["name"], metric, round(value, 4), metric_name=name)]


def _describe_writing(facts: Facts) -> str:
    """How it generates text, in a sentence."""
    abilities, unit = MODEL_REGISTRY[facts["kind"]].abilities, _unit(facts)
    vocabulary = "" if unit == "character" else f" out of {facts['vocabulary']:,} ({facts['tokenizer']})"
    length = facts["context_length"]
    if "writes" in abilities:
        context = describe_context(length, unit, "lines" in facts["data"])
        return f"It generates one {unit} at a time{vocabulary} and sees {context}."
    if "infills" in abilities:
        return f"It generates {unit}s{vocabulary} in any order, several at once, and sees up to {length} {unit}s on both sides."
    base = f" {facts['base_model']['name']} decodes them and must be beside it." if "base_model" in facts else ""
    return f"It draws whole lines.{base}"


def _python_usage(facts: Facts, model: str, settings: dict[str, Any]) -> str:
    """Code that generates the sample again."""
    sample, family = facts["sample"], MODEL_REGISTRY[facts["kind"]]
    arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    if "writes" in family.abilities:
        call = f"generate({sample['prompt']!r}, SamplingParams({arguments})).text"
        return f"from gpt import load, SamplingParams\nload({model}).{call}"
    if "lines" in facts["data"]:
        lines = sample["text"].count("\n") + 1
        return f"from gpt import load\nload({model}).sample({lines}, seed={sample['seed']})"
    return f"from gpt import load, UnmaskingParams\nload({model}).generate({sample['prompt']!r}, UnmaskingParams({arguments}))"


def _flags(settings: dict[str, Any]) -> str:
    """Options of the command line."""
    return " ".join(f"--{'length' if name == 'max_new_tokens' else name} {value}" for name, value in settings.items())


def _likelihood(facts: Facts) -> Facts | None:
    """The held-out loss, or None for a family without likelihood."""
    if "held_out" not in facts:
        return None
    held_out, is_bound = facts["held_out"], MODEL_REGISTRY[facts["kind"]].likelihood == "bound"
    return {
        "measured": f"{held_out['tokens']:,} {_unit(facts)}s"
        + (f" in {held_out['lines']:,} lines" if "lines" in held_out else ""),
        "rows": _comparison(facts),
        "bits_per_byte": f"{held_out['bits_per_byte']:.4f}",
        "bound": _describe_bound(facts) if is_bound else "",
    }


def _samples(facts: Facts) -> Facts | None:
    """What samples are like, as a table and notes; None if they were not measured."""
    if "samples" not in facts:
        return None
    return _line_samples(facts) if "lines" in facts["samples"] else _text_samples(facts["samples"])


def _line_samples(facts: Facts) -> Facts:
    """`train.sample_metrics.LineMetrics` as a table."""
    samples = facts["samples"]
    columns = {"this model": samples}
    if "prior" in samples:
        columns[f"prior of {facts['base_model']['name']}"] = samples["prior"]
    rows = [
        [f"JSD of {n}-grams", *(f"{each['js_divergence'][n - 1]:.4f}" for each in columns.values()), f"{floor:.4f}"]
        for n, floor in enumerate(samples["floor"], start=1)
    ]
    for name, title in (("valid", "well-formed lines"), ("unique", "distinct lines"), ("new", "lines not in the training text")):
        rows.append([title, *(f"{each[name]:.1%}" for each in columns.values()), ""])
    notes = [
        f"Measured on {samples['lines']:,} lines that it drew. JSD is the Jensen-Shannon divergence, in bits, of their n-grams "
        "of characters from those of the held-out lines; the floor is that of as many training lines."
    ]
    if judge := samples["judge"]:
        rows.append(
            [f"cost under {judge}, nats per character", *(f"{each['nll_per_character']:.3f}" for each in columns.values()), ""]
        )
        notes.append(f"A low cost under {judge} with few distinct lines is dull text.")
    if shares := facts.get("conditions", {}).get("shares"):
        conditions = facts["conditions"]
        notes.append(
            f"Lines that obey a condition, drawn with guidance {conditions['guidance']:g}, {conditions['lines']} for each of its "
            f"values: {', '.join(f'{name} {share:.0%}' for name, share in shares.items())}."
        )
    return {"header": ["", *columns, "training lines (floor)"], "rows": rows, "notes": notes}


def _text_samples(samples: Facts) -> Facts:
    """`train.text_metrics.TextMetrics` as a table."""
    columns, errors = (samples, samples["held_out"]), samples["typing_errors"]
    rows = [
        [title, *(f"{each[name]:{form}}" for each in columns)]
        for name, title, form in (
            ("nll_per_character", f"cost under {samples['judge']}, nats per character", ".3f"),
            ("known_words", "words of the training text", ".1%"),
            ("unique_words", "distinct words", ".1%"),
            ("entropy", "entropy of the characters of a text, nats", ".3f"),
        )
        if samples[name] is not None
    ]
    notes = [
        f"Measured on {samples['texts']:,} texts without a prompt, written in {samples['steps']} steps each, and as many "
        "passages of held-out text. A low cost with few distinct words is dull text.",
        f"Proofreading with {errors['passes']} passes ranks a wrong letter above a right one in {errors['auc']:.1%} of cases "
        f"(AUC; {errors['characters']:,} held-out characters, one error in {errors['one_in']}).",
    ]
    return {"header": ["", "this model", "held-out text"], "rows": rows, "notes": notes}


def _curve_title(facts: Facts) -> str:
    is_scored = MODEL_REGISTRY[facts["kind"]].likelihood != "none"
    return "Training and held-out loss" if is_scored else "Divergence of 3-grams from held-out lines"


def _comparison(facts: Facts) -> list[str]:
    """Rows of a table: the model, its parts and the baselines, in nats and bits per character."""
    mine, baselines = facts["held_out"]["bits_per_character"], facts["baselines"]
    bits = {"this model": mine}
    bits |= {part["name"]: part["held_out"]["bits_per_character"] for part in facts.get("parts", ())}
    if other := facts.get("autoregressive"):
        bits[f"{other['name']}, exact"] = other["held_out"]["bits_per_character"]
    bigram = baselines["bigram"] / math.log(2)
    if not math.isclose(bigram, mine, abs_tol=1e-9):  # else it is this model
        bits["baseline: bigram of characters"] = bigram
    bits["baseline: uniform over the characters"] = baselines["uniform"] / math.log(2)
    return [f"{name} | {each * math.log(2):.4f} | {each:.4f}" for name, each in bits.items()]


def _describe_bound(facts: Facts) -> str:
    if samples := facts["held_out"].get("bound_samples"):
        return (
            "The exact loss is intractable; its figures are upper bounds: the mean cost of hidden tokens, "
            f"with {samples} random choices of what is hidden for each text."
        )
    if samples := facts["held_out"].get("iwae_samples"):
        return f"The exact loss is intractable; its figures are importance-weighted upper bounds with {samples} samples per line."
    return "The exact loss is intractable; its figures are upper bounds."


def _describe_selection(facts: Facts) -> str:
    """How checkpoints were selected on the held-out text, and by how much that can flatter the model."""
    curve = facts["curve"]
    is_scored = MODEL_REGISTRY[facts["kind"]].likelihood != "none"
    loss, unit = ("loss", f"nats per {_unit(facts)}") if is_scored else ("divergence of 3-grams", "bits")
    if any(MODEL_REGISTRY[part["kind"]].task for part in facts.get("parts", ())):
        return "Checkpoints of its parts were selected on this text; their cards say by how much that can flatter them."
    if len(curve) < 2:
        return ""
    best, last = min(point["held_out"] for point in curve), curve[-1]["held_out"]
    selected = f"The checkpoint was selected on this text: it has the lowest {loss} of {len(curve)} evaluations during training."
    if last == best:
        return f"{selected} It is also the last one, so the selection did not flatter it."
    return (
        f"{selected} That can flatter it by up to {last - best:.4f} {unit}, the difference between the last checkpoint "
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
    base = f" on the latent vectors of {facts['base_model']['name']}" if "base_model" in facts else ""
    start = f", starting from the weights of {facts['init']['name']}" if "init" in facts else ""
    return f"{facts['steps']:,} steps of {facts['method']}{base}{teacher}{start}"
