"""The README says what is so: its figures are those of training.json, its example gives its output, its commands exist."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FACTS = {path.parent.name: json.loads(path.read_text()) for path in sorted(ROOT.glob("weights/*/training.json"))}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_table_of_models_is_that_of_the_training_runs():
    found = re.findall(r"\| `(\S+)` \| (.+?) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|", README)
    expected = [
        (
            name,
            "1 character" if facts["window"] == 1 else f"the last {facts['window']} characters",
            f"{facts['parameters']:,}",
            f"{facts['held_out']['nats_per_token']:.4f}",
            f"{facts['held_out']['bits_per_character']:.4f}",
        )
        for name, facts in FACTS.items()
    ]
    assert found == expected


def test_every_other_figure_is_that_of_the_training_runs():
    gpt = FACTS["gpt-shakespeare"]
    assert f"would cost {math.log(gpt['vocabulary']):.3f} nats" in README
    assert f"{gpt['vocabulary']}\ncharacters" in README or f"{gpt['vocabulary']} characters" in README
    for facts in FACTS.values():
        assert facts["command"] in README


def test_the_example_gives_the_output_that_stands_below_it():
    example = next(block for block in blocks("python") if "from gpt import" in block)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip("\n") == blocks("text")[0].strip("\n")


def test_the_example_for_transformers_runs():
    example = next(block for block in blocks("python") if "from transformers" in block)
    subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=True)


def test_the_command_line_example_runs():
    command = re.search(r"^python -m gpt --model gpt-shakespeare .*$", README, re.MULTILINE)[0]
    done = subprocess.run(
        command.replace("python", sys.executable, 1), shell=True, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ROMEO:")
    assert len(done.stdout.rstrip("\n")) > 250


@pytest.mark.parametrize("command", sorted(set(re.findall(r"python -m train (run|evaluate)\b", README))))
def test_the_training_commands_exist(command):
    done = subprocess.run(
        [sys.executable, "-m", "train", command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--data" in done.stdout


def test_the_layout_names_what_is_there():
    for path in re.findall(r"^((?:gpt|train|ui|weights)/[\w.]*)", README, re.MULTILINE):
        assert (ROOT / path).exists(), path


def test_the_space_runs_the_gradio_that_is_tested():
    least = re.search(r"^gradio>=([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[1]
    assert f"sdk_version: {least}" in README


def test_pictures_and_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
