"""The model card and the picture of the loss curve, both made from a run's training.json."""

import math
import re
import shlex
from html import escape
from textwrap import fill
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from gpt.models.base import UNBOUNDED_CONTEXT
from gpt.tokenizer import START

PROJECT = "from-bigram-to-gpt"
KINDS = {
    "bigram": "A table of which {unit} follows which",
    "ngram": "A table of what followed the last few {unit}s",
    "lstm": "A recurrent network, an LSTM",
    "vae": "A variational autoencoder of lines, with an LSTM on either side",
    "gpt": "A decoder-only transformer in the shape of Qwen3",
    "mixture": "The weighted mean of what two models foresee",
}


def unit(facts: dict[str, Any]) -> str:
    """What to call a token of the model."""
    return "character" if facts["tokenizer"] == "char" else "token"


def sees(facts: dict[str, Any]) -> str:
    """What the model looks at when it writes a token."""
    if facts["window"] == 1:
        return f"the last {unit(facts)}"
    if "lines" in facts["data"]:
        return "the line so far"
    return "all before it" if facts["window"] == UNBOUNDED_CONTEXT else f"the last {facts['window']} {unit(facts)}s"


def card(facts: dict[str, Any], name: str) -> str:
    """The README.md of a weights folder: front matter for the Hub, then what the model is, knows and costs."""
    data, evaluate, sample = facts["data"], facts["held_out"], facts["sample"]
    is_gpt, one = facts["kind"] == "gpt", unit(facts)
    front = ModelCardData(
        language="en" if data["name"] == "shakespeare" else None,
        license="mit" if data["licence"] else "unknown",  # of one's own text, only its owner can say
        library_name="transformers" if is_gpt else "safetensors",
        pipeline_tag="text-generation",
        tags=[PROJECT, *(["character-level"] if one == "character" else []), facts["kind"]],
        datasets=[data["dataset"]] if data["dataset"] else None,
        model_name=name,
        eval_results=[
            EvalResult(
                "text-generation",
                data["dataset"] or "text",
                data["name"],
                "bits_per_character",
                round(evaluate["bits_per_character"], 4),
                metric_name="bits per character, held out",
            )
        ],
    )
    bits = {
        "this model": evaluate["bits_per_character"],
        **{f"{part['name']} alone": part["held_out"]["bits_per_character"] for part in facts.get("parts", ())},
        "counting pairs of characters (bigram)": facts["baselines"]["bigram"] / math.log(2),
        "every character alike": facts["baselines"]["uniform"] / math.log(2),
    }
    if facts["kind"] == "bigram" and one == "character":
        del bits["counting pairs of characters (bigram)"]  # that is this model
    rows = "\n".join(f"| {what} | {each * math.log(2):.4f} | {each:.4f} |" for what, each in bits.items())
    lines = data.get("lines")
    part = f"a tenth of {lines:,} lines, each with its end" if lines else "the last tenth of the text"
    bounded = ", by the importance-weighted bound" if facts["kind"] == "vae" else ""
    writes = "one character" if one == "character" else f"one of {facts['vocabulary']:,} tokens ({facts['tokenizer']})"
    unseen = " A character that the text\ndoes not have is left out of a prompt." if one == "character" else ""
    licence = f" ({data['licence']}, {data['url']})" if data["url"] else ""
    picture = "![Loss while it learned](loss_curve.svg)\n\n" if facts["curve"] else ""
    flags = f"--temperature {sample['temperature']} --length {sample['max_new_tokens']} --seed {sample['seed']}"
    how = f"{facts['steps']:,} steps" if facts["curve"] else made_without_steps(facts)
    settings = f"temperature={sample['temperature']}, max_new_tokens={sample['max_new_tokens']}, seed={sample['seed']}"
    after = f" after `{sample['prompt']}`" if sample["prompt"] else ""
    written = sample["prompt"] + sample["text"]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", written)), default=0))  # longer than any that it wrote itself
    transformers = f"""
```python
from transformers import pipeline
pipeline("text-generation", "{name}")({sample["prompt"] or START!r}, max_new_tokens=300)  # the folder, or its id on the Hub
```
"""
    return f"""---
{front.to_yaml()}
---

# {name}

{KINDS[facts["kind"]].format(unit=one)}, which writes {writes} at a time. It has {facts["parameters"]:,} parameters, sees
{sees(facts)}, and learned from {data["name"]}{licence}.

| held out: {part}, {evaluate["tokens"]:,} {one}s{bounded} | nats a character | bits a character |
|---|---|---|
{rows}

A byte of that text costs this model {evaluate["bits_per_byte"]:.4f} bits.

{latent(facts)}{picture}What it writes{after} ({settings}):

{fence}text
{written}
{fence}

## Use it

```python
from gpt import load, SamplingParams
load("{name}").generate({sample["prompt"]!r}, SamplingParams({settings})).text
```

```
python -m gpt --model {name} --prompt {shlex.quote(sample["prompt"])} {flags}
```
{transformers if is_gpt else ""}
## Limits

It imitates the look of one text and knows nothing of the world: do not believe what it writes.{unseen}

## How it was made

`{facts["command"]}`: {how} in {duration(facts["seconds"])} on {facts["machine"]["cores"]} cores of
{facts["machine"]["processor"]} ({facts["started"][:10]}). Every figure here is from the `training.json` that this run wrote.
"""


def latent(facts: dict[str, Any]) -> str:
    """How a VAE uses its latent space."""
    if "latent" not in facts:
        return ""
    use = facts["latent"]
    short, prior, among = use["short"], use["prior"], use["among"]
    told = (
        f"Its latent space, on the {use['lines']:,} held-out lines: reconstruction {use['reconstruction']:.2f} nats a line, "
        f"KL divergence {use['kl_divergence']:.2f}; among {among:,} lines a point tells {use['mutual_information']:.2f} nats of its own, "
        f"of {math.log(among):.2f} that it could; {use['active']} of {facts['config']['latent']} numbers are active. Of "
        f"{short['lines']:,} lines of up to {short['characters']} characters "
        f"{short['exact']:,} ({short['exact'] / max(1, short['lines']):.0%}) come back exactly from their mean; "
        f"of any line, {use['alike']:.0%} of its characters. Of "
        f"{prior['lines']:,} points drawn from the prior {prior['new']:,} ({prior['new'] / prior['lines']:.0%}) give a line that "
        f"is new, not empty, and ends within {prior['characters']} characters."
    )
    return fill(told, 120) + "\n\n"


def made_without_steps(facts: dict[str, Any]) -> str:
    """What a run did that took no steps."""
    if facts["kind"] == "ngram":
        longest, whole = facts["order"], facts["whole"]
        some = f", those longer than {whole} where they count more than once" if whole < longest else ""
        return f"all sequences of up to {longest} {unit(facts)}s counted{some} ({facts['smoothing']})"
    if facts["kind"] == "mixture":
        first, second = (part["name"] for part in facts["parts"])
        return (
            f"{100 * facts['weight']:.1f} % of {first}, the rest of {second}; the weight is the best for two models of the same "
            "kinds that learned from the first 90 % of the training text alone, on its last tenth. Mixed"
        )
    return "all pairs counted"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would say."""
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def loss_curve(facts: dict[str, Any], width: int = 640, height: int = 320) -> str:
    """The losses of a run as an SVG picture: held out and train over the steps, in nats a token."""
    curve = facts["curve"]
    values = [point[side] for point in curve for side in ("train", "held_out")]
    low, high = math.floor(min(values) * 10) / 10, math.ceil(max(values) * 10 + 0.1) / 10
    last = max(point["step"] for point in curve)
    left, top, right, bottom = 52, 16, width - 100, height - 40

    def place(step: float, loss: float) -> tuple[float, float]:
        return left + (right - left) * step / last, bottom - (bottom - top) * (loss - low) / (high - low)

    marks = [low + (high - low) * i / 4 for i in range(5)]
    parts = [
        f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>'
        f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{mark:.2f}</text>'
        for mark in marks
        for y in [place(0, mark)[1]]
    ]
    for side, label, colour in (("train", "train", "#999"), ("held_out", "held out", "#b3471d")):
        points = [place(point["step"], point[side]) for point in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<circle cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="3" fill="{colour}"/>')
        parts.append(f'<text x="{points[-1][0] + 8:.1f}" y="{points[-1][1] + 4:.1f}" fill="{colour}">{label}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 26}" text-anchor="end">{last:,} steps</text>')
    parts.append(f'<text x="{left}" y="{bottom + 26}">nats a {unit(facts)}</text>')
    title = escape(f"Loss of {facts['kind']} on {facts['data']['name']}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="13" fill="#333"><title>{title}</title>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )
