import ast
import json
import math
import re
import shlex
import xml.etree.ElementTree as ET

import pytest
import yaml

from gpt.__main__ import parser
from train.card import card, duration, loss_curve
from train.data import DatasetSource, TextDataset
from train.runs import count

SOURCE = DatasetSource("https://example.org/chain.txt", "", "public domain", "someone/chain", "abc")


@pytest.fixture(scope="module")
def counted(data, tmp_path_factory):
    """What a real run tells of itself, and the folder that it wrote."""
    out = tmp_path_factory.mktemp("counted") / "my-bigram"
    list(count(TextDataset("chain", data.text, data.sha256, SOURCE), out, 7, "python -m train run bigram"))
    return json.loads((out / "training.json").read_text(encoding="utf-8")), out


@pytest.fixture
def facts(counted):
    return json.loads(json.dumps(counted[0]))


def front_matter(text):
    _, front, rest = text.split("---\n", 2)
    return yaml.safe_load(front), rest


def blocks(text, language=""):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_a_run_writes_the_card_of_its_facts(counted):
    facts, out = counted
    assert (out / "README.md").read_text(encoding="utf-8") == card(facts, "my-bigram")
    assert "loss_curve.svg" not in card(facts, "my-bigram")  # counting has no curve
    assert not (out / "loss_curve.svg").exists()


def test_front_matter_is_what_the_hub_reads(facts):
    front, _ = front_matter(card(facts, "user/tiny"))
    assert front["license"] == "mit"
    assert front["library_name"] == "safetensors"
    assert front["pipeline_tag"] == "text-generation"
    assert {"from-bigram-to-gpt", "character-level", "bigram"} <= set(front["tags"])
    result = front["model-index"][0]["results"][0]
    assert result["dataset"]["name"] == "chain"
    assert result["metrics"][0]["type"] == "bits_per_character"
    assert result["metrics"][0]["value"] == round(facts["held_out"]["bits_per_character"], 4)


def test_a_gpt_names_the_library_that_opens_it(facts):
    text = card(facts | {"kind": "gpt", "window": 256}, "user/tiny")
    assert front_matter(text)[0]["library_name"] == "transformers"
    assert "the last 256 characters" in text
    assert 'pipeline("text-generation", "user/tiny")(\'abc\', max_new_tokens=300)' in text
    assert "from transformers" not in card(facts, "user/tiny")


def test_a_model_of_other_tokens_is_told_in_bits_that_compare(facts):
    evaluate = facts["held_out"] | {"nats_per_token": 3.0, "bits_per_character": 2.25, "bits_per_byte": 1.5, "tokens": 1234}
    text = card(facts | {"kind": "gpt", "tokenizer": "gpt2", "vocabulary": 50257, "held_out": evaluate, "window": 64}, "tiny")
    assert "writes one of 50,257 tokens (gpt2) at a time" in text
    assert "sees\nthe last 64 tokens" in text
    assert "1,234 tokens | nats a character |" in text
    assert f"| this model | {2.25 * math.log(2):.4f} | 2.2500 |" in text
    assert "A byte of that text costs this model 1.5000 bits." in text
    assert "character-level" not in text


def test_figures_are_those_of_the_run(facts):
    _, text = front_matter(card(facts | {"kind": "gpt"}, "tiny"))
    evaluate, baselines = facts["held_out"], facts["baselines"]
    assert f"| this model | {evaluate['nats_per_token']:.4f} | {evaluate['bits_per_character']:.4f} |" in text
    bigram, uniform = baselines["bigram"], baselines["uniform"]
    assert f"| counting pairs of characters (bigram) | {bigram:.4f} | {bigram / math.log(2):.4f} |" in text
    assert f"| every character alike | {uniform:.4f} | {uniform / math.log(2):.4f} |" in text
    assert f"{facts['parameters']:,} parameters" in text
    assert f"{evaluate['tokens']:,} characters" in text
    assert f"A byte of that text costs this model {evaluate['bits_per_byte']:.4f} bits." in text
    assert "the last character, and learned from chain (public domain, https://example.org/chain.txt)." in text
    assert facts["machine"]["processor"] in text
    assert f"`{facts['command']}`" in text


def test_the_sample_and_the_seed_that_writes_it(facts):
    text = card(facts, "tiny")
    assert blocks(text, "text") == ["abc" + facts["sample"]["text"] + "\n"]
    assert "after `abc` (temperature=0.8, max_new_tokens=300, seed=7):" in text


def test_a_text_of_backticks_stays_in_its_block(facts):
    facts["sample"]["text"] = "code:\n```\nx\n````\n# not a heading"
    text = card(facts, "tiny")
    assert "\n`````text\nabccode:\n```\nx\n````\n# not a heading\n`````\n" in text


def test_without_a_prompt_none_is_shown(facts):
    facts["sample"]["prompt"] = ""
    text = card(facts | {"kind": "gpt"}, "tiny")
    assert "What it writes (temperature=" in text
    assert "``" not in re.sub("`{3,}", "", text)
    assert '("text-generation", "tiny")(\'\\n\', max_new_tokens=300)' in text  # which cannot start from nothing


@pytest.mark.parametrize("prompt", ["", "abc", 'say "so"', "it's", "a\nb"])
def test_what_it_shows_can_be_run(facts, prompt):
    facts["sample"]["prompt"] = prompt
    text = card(facts | {"kind": "gpt"}, "user/tiny")
    snippets = blocks(text, "python")
    assert len(snippets) == 2
    for snippet in snippets:
        ast.parse(snippet)
    (command,) = (block for block in blocks(text) if block.startswith("python -m gpt"))
    words = shlex.split(command)
    args = parser().parse_args(words[3:])
    assert words[:3] == ["python", "-m", "gpt"]
    assert (args.model, args.prompt, args.max_new_tokens, args.seed) == ("user/tiny", prompt, 300, 7)


@pytest.mark.parametrize(("seconds", "said"), [(0.04, "0.0 s"), (89.9, "89.9 s"), (90, "2 minutes"), (3900, "65 minutes")])
def test_duration(seconds, said):
    assert duration(seconds) == said


def curve(*points):
    return {
        "kind": "gpt",
        "data": {"name": "chain"},
        "tokenizer": "char",
        "curve": [{"step": step, "train": train, "held_out": evaluate} for step, train, evaluate in points],
    }


def lines(svg):
    """The points of each curve of a picture, as pairs of numbers."""
    found = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}polyline")
    return [[tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in found]


def test_the_picture_shows_every_point_in_its_place():
    train, evaluate = lines(loss_curve(curve((100, 3.0, 3.1), (200, 2.0, 2.5), (400, 1.5, 2.6))))
    assert len(train) == len(evaluate) == 3
    for line in (train, evaluate):
        steps = [x for x, _ in line]
        assert steps[1] - steps[0] == pytest.approx((steps[2] - steps[1]) / 2, abs=0.2)
        assert all(52 <= x <= 540 and 16 <= y <= 280 for x, y in line)
    assert train[0][1] < train[1][1] < train[2][1]  # a lower loss is further down
    assert evaluate[2][1] < evaluate[1][1]
    scale = (train[1][1] - train[0][1]) / 1.0
    assert evaluate[1][1] - evaluate[0][1] == pytest.approx(scale * 0.6, abs=0.2)


def test_the_picture_of_a_single_point():
    (train,), (evaluate,) = lines(loss_curve(curve((1, 2.0, 2.0))))
    assert train == evaluate


def test_the_title_of_the_picture_is_escaped():
    facts = curve((1, 2.0, 2.1))
    facts["data"]["name"] = "<script>&"
    svg = loss_curve(facts)
    assert "<script>" not in svg
    assert ET.fromstring(svg).find("{http://www.w3.org/2000/svg}title").text == "Loss of gpt on <script>&"
