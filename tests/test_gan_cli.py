"""A text GAN on the command line: trained, evaluated, drawn from, and what it refuses."""

import json
import re

import pytest

from gpt import load
from gpt.__main__ import main as gpt_main
from train.__main__ import main as train_main
from train.__main__ import show_events
from train.trainer import EndEvent, EvalEvent, StepEvent


@pytest.fixture
def train_cli(command, keeps_sigint):
    return command("python -m train", train_main)


@pytest.fixture
def gpt_cli(command):
    return command("python -m gpt", gpt_main)


@pytest.fixture
def line_file(tmp_path, line_data):
    path = tmp_path / "items.txt"
    path.write_text(line_data.text)
    return path


def test_both_losses_stand_in_the_bar_and_a_divergence_in_the_log(capsys, tmp_path):
    step = StepEvent(9, 1.0, 1.4, 100.0, {"discriminator": 0.692, "generator": 0.708})
    events = [step, EvalEvent(9, 3.0, 1.4, 0.123, True), EndEvent(9, 3.0, 900)]
    show_events((event for event in events), tmp_path, has_likelihood=False)
    out, err = capsys.readouterr()
    assert "loss 1.400, discriminator 0.692, generator 0.708, 100 tokens/s" in err
    assert "step 9: divergence of 3-grams from held-out lines 0.1230 bits, the best so far" in out


@pytest.mark.slow
def test_gan_is_trained_evaluated_and_drawn_from(train_cli, gpt_cli, line_file, tmp_path):
    out = tmp_path / "gan"
    size = ("--layers", "1", "--width", "16", "--device", "cpu")
    status, said, err = train_cli("run", "gan", "--data", line_file, "--lines", "--steps", "60", "--out", out, *size)
    assert status == 0, err
    assert "nats a token" not in said
    facts = json.loads((out / "training.json").read_text())
    samples = facts["samples"]

    status, said, err = train_cli("evaluate", out, "--data", line_file)
    assert (status, err) == (0, "")
    first, second = said.splitlines()
    assert first == (
        f"54 samples: {samples['valid']:.1%} well-formed, {samples['unique']:.1%} different, {samples['new']:.1%} new, no judge"
    )
    divergences = [*samples["js_divergence"], *samples["floor"]]
    assert [float(each) for each in re.findall(r"\d\.\d{4}", second)] == pytest.approx(divergences, abs=1e-4)

    status, said, err = gpt_cli("--model", out, "--samples", "5", "--seed", "7")
    assert (status, err) == (0, "")
    assert said.split("\n")[:-1] == load(out).sample(5, 7)

    for options, refused in ((("--prompt", "a"), "--prompt"), (("--fill", "a ___"), "--fill"), (("--steps", "3"), "--steps")):
        status, _, _ = gpt_cli("--model", out, *options)
        assert status == f"python -m gpt: gan is a GAN, which does not take {refused}; it takes --samples, --seed"


def test_gan_of_a_running_text_is_refused(train_cli, text_file, tmp_path):
    status, _, _ = train_cli("run", "gan", "--data", text_file, "--out", tmp_path / "gan", "--steps", "5")
    assert status == "python -m train: a GAN is trained on lines; give --lines, or a data set of lines such as names"
    status, _, _ = train_cli("run", "gan", "--data", text_file, "--out", tmp_path / "gan", "--steps", "5", "--compile")
    assert status == "python -m train: a GAN is not compiled; leave --compile out"
