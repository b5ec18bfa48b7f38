"""The model card, made from the training.json of shipped models."""

import ast
import json
import math
import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from gpt.__main__ import parser
from gpt.checkpoint import WEIGHTS, names
from train.card import format_duration, model_reference, render_card, render_loss_curve


def training_log(name, **changes):
    return json.loads((WEIGHTS / name / "training.json").read_text(encoding="utf-8")) | changes


def front_matter(card):
    return yaml.safe_load(card.split("---\n", 2)[1])


def blocks(card, language=""):
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", names())
def test_shipped_card_is_what_its_training_log_gives(name):
    facts = training_log(name)
    assert (WEIGHTS / name / "README.md").read_text(encoding="utf-8") == render_card(facts, name)
    assert (WEIGHTS / name / "loss_curve.svg").exists() == bool(facts["curve"])
    if facts["curve"]:
        assert (WEIGHTS / name / "loss_curve.svg").read_text(encoding="utf-8") == render_loss_curve(facts)


@pytest.mark.parametrize(
    ("name", "library"),
    [("bigram-shakespeare", "safetensors"), ("gpt-shakespeare", "transformers"), ("vae-names", "safetensors")],
)
def test_front_matter_is_what_the_hub_reads(name, library):
    facts = training_log(name)
    data = front_matter(render_card(facts, "user/tiny"))
    assert (data["license"], data["pipeline_tag"], data["library_name"]) == ("mit", "text-generation", library)
    assert {"from-bigram-to-gpt", "character-level", facts["kind"]} <= set(data["tags"])
    assert data.get("datasets", [None])[0] == facts["data"]["dataset"]
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"]["name"] == facts["data"]["name"]
    assert result["metrics"][0]["value"] == round(facts["held_out"]["bits_per_character"], 4)


@pytest.mark.parametrize("name", [name for name in names() if "held_out" not in training_log(name)])
def test_card_without_likelihood_has_the_measures_of_the_run(name):
    facts = training_log(name)
    card = render_card(facts, name)
    samples = facts["samples"]
    for n, (own, floor) in enumerate(zip(samples["js_divergence"], samples["floor"], strict=True), start=1):
        assert re.search(rf"\| JSD of {n}-grams \| {own:.4f} \|(.*\|)? {floor:.4f} \|", card)
    assert f"cost under {samples['judge']}, nats per character | {samples['nll_per_character']:.3f} |" in card
    assert "bits per character |" not in card


@pytest.mark.parametrize("name", [name for name in names() if "held_out" in training_log(name)])
def test_figures_are_those_of_the_run(name):
    facts = training_log(name)
    card = render_card(facts, name)
    held_out, baselines = facts["held_out"], facts["baselines"]
    bits = held_out["bits_per_character"]
    assert f"| this model | {bits * math.log(2):.4f} | {bits:.4f} |" in card
    is_baseline = math.isclose(baselines["bigram"], bits * math.log(2))
    assert (f"| {baselines['bigram']:.4f} | {baselines['bigram'] / math.log(2):.4f} |" in card) or is_baseline
    assert f"| {baselines['uniform']:.4f} | {baselines['uniform'] / math.log(2):.4f} |" in card
    for figure in (f"{facts['parameters']:,} parameters", f"{held_out['tokens']:,} ", f"{held_out['bits_per_byte']:.4f} bits"):
        assert figure in card
    assert f"`{facts['command']}`" in card
    for part in facts.get("parts", ()):
        assert f"| {part['name']} |" in card
    assert ("importance-weighted upper bounds" in card) == (facts["kind"] == "vae")
    assert ("## Latent space" in card) == ("latent" in facts)


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("bigram-names", "the last character"),
        ("ngram-names", "the last 6 characters"),
        ("lstm-names", "the line so far"),
        ("gpt-shakespeare", "the last 256 characters"),
        ("bpe-shakespeare", "the last 256 tokens"),
    ],
)
def test_context_is_what_the_model_sees(name, context):
    assert f" sees {context}." in render_card(training_log(name), name)


def test_selection_on_the_held_out_text_is_stated_with_its_effect():
    curve = [{"step": step, "train": 2.0, "held_out": loss} for step, loss in ((1, 3.0), (2, 2.5), (3, 2.625))]
    card = render_card(training_log("gpt-shakespeare", curve=curve), "tiny")
    assert "selected on this text" in card
    assert "0.1250 nats per character" in card
    card = render_card(training_log("gpt-shakespeare", curve=curve[:2]), "tiny")
    assert "the last one, so the selection did not flatter it" in card
    for name in ("gpt-shakespeare", "ngram-shakespeare"):
        assert "selected" not in render_card(training_log(name, curve=[]) | {"k": 1}, "tiny")
    assert "were selected on this text" in render_card(training_log("mixture-names"), "tiny")


def test_figures_of_rounded_weights_are_not_claimed_to_be_of_the_run():
    assert "the held-out loss is that of the stored float16 weights" in render_card(training_log("gpt-names"), "tiny")
    assert "float16" not in render_card(training_log("bigram-names"), "tiny")


def test_samples_of_running_text_stand_beside_held_out_text():
    facts = training_log("gpt-shakespeare", kind="diffusion")
    facts["held_out"]["bound_samples"] = 4
    measures = {"texts": 40, "characters": 10_240, "judge": "gpt-shakespeare", "nll_per_character": 1.75, "entropy": 2.5}
    samples = measures | {"known_words": 0.875, "unique_words": 0.375, "steps": 64}
    held_out = samples | {"nll_per_character": 1.5, "unique_words": 0.5}
    errors = {"characters": 5_000, "passes": 8, "one_in": 25, "auc": 0.975}
    card = render_card(facts | {"samples": samples | {"held_out": held_out, "typing_errors": errors}}, "tiny")
    assert "|  | this model | held-out text |\n|---|---|---|\n" in card
    assert "| cost under gpt-shakespeare, nats per character | 1.750 | 1.500 |" in card
    assert "| distinct words | 37.5% | 50.0% |" in card
    assert "in 97.5% of cases (AUC; 5,000 held-out characters, one error in 25)" in card
    assert "with 4 random choices of what is hidden for each text" in card
    assert "importance-weighted" not in card


def test_unfinished_run_and_warning_are_stated():
    assert "has not finished" in render_card(training_log("gpt-names", finished=False), "tiny")
    assert "Note: too few steps." in render_card(training_log("gpt-names", warning="too few steps"), "tiny")
    assert "Note:" not in render_card(training_log("gpt-names"), "tiny")


def test_backticks_of_a_sample_stay_in_their_block():
    facts = training_log("bigram-names")
    facts["sample"]["text"] = "code:\n```\nx\n````\n# not a heading {{ 7 * 7 }} <b>"
    assert f"\n`````text\n{facts['sample']['text']}\n`````\n" in render_card(facts, "tiny")


@pytest.mark.parametrize("prompt", ["", "abc", 'say "so"', "it's", "a\nb"])
@pytest.mark.parametrize("model", ["user/tiny", "runs/mine", "runs/my model's"])
def test_commands_run_as_they_are(prompt, model):
    facts = training_log("gpt-names")
    facts["sample"]["prompt"] = prompt
    card = render_card(facts, model)
    ours, theirs = blocks(card, "python")
    calls = [node for node in ast.walk(ast.parse(ours)) if isinstance(node, ast.Call)]
    assert [ast.literal_eval(c.args[0]) for c in calls if isinstance(c.func, ast.Name) and c.func.id == "load"] == [model]
    ast.parse(theirs)
    (command,) = (block for block in blocks(card) if block.startswith("python -m gpt"))
    words = shlex.split(command)
    args = parser().parse_args(words[3:])
    sample = facts["sample"]
    assert (args.model, args.prompt, args.max_new_tokens, args.seed) == (model, prompt, sample["max_new_tokens"], sample["seed"])


def test_local_model_is_named_by_the_path_as_typed(tmp_path, monkeypatch):
    assert model_reference(Path("runs/mine")) == "runs/mine"
    assert model_reference(Path("mine/")) == "mine"
    assert model_reference(tmp_path / "mine") == "mine"  # the other parts of an absolute path are private
    monkeypatch.chdir(tmp_path)
    assert model_reference(Path(".")) == tmp_path.name


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (89.9, "89.9 s"), (90, "2 minutes"), (3900, "65 minutes")])
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


# The loss curve


def curve(*points):
    return {
        "kind": "gpt",
        "data": {"name": "<script>&"},
        "tokenizer": "char",
        "curve": [{"step": step, "train": train, "held_out": held_out} for step, train, held_out in points],
    }


def polylines(svg):
    """The points of each curve, as pairs of numbers."""
    elements = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}polyline")
    return [[tuple(map(float, point.split(","))) for point in element.get("points").split()] for element in elements]


def test_every_point_is_drawn_in_its_place():
    train, held_out = polylines(render_loss_curve(curve((100, 3.0, 3.1), (200, 2.0, 2.5), (400, 1.5, 2.6))))
    assert len(train) == len(held_out) == 3
    for line in (train, held_out):
        steps = [x for x, _ in line]
        assert steps[1] - steps[0] == pytest.approx((steps[2] - steps[1]) / 2, abs=0.2)
        assert all(52 <= x <= 540 and 16 <= y <= 280 for x, y in line)
    assert train[0][1] < train[1][1] < train[2][1]  # a lower loss is further down
    assert held_out[2][1] < held_out[1][1]
    scale = (train[1][1] - train[0][1]) / 1.0
    assert held_out[1][1] - held_out[0][1] == pytest.approx(scale * 0.6, abs=0.2)


def test_single_point_is_drawn():
    (train,), (held_out,) = polylines(render_loss_curve(curve((1, 2.0, 2.0))))
    assert train == held_out


def test_title_is_escaped():
    svg = render_loss_curve(curve((1, 2.0, 2.1)))
    assert "<script>" not in svg
    assert ET.fromstring(svg).find("{http://www.w3.org/2000/svg}title").text == "Loss of gpt on <script>&"
