"""The README says what is so: its figures are those of training.json, its example gives its output, its commands exist."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import free_port

from gpt import SamplingParams, load
from train.card import sees

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FACTS = {path.parent.name: json.loads(path.read_text()) for path in sorted(ROOT.glob("weights/*/training.json"))}


def blocks(language, text=README):
    return [block for name, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if name == language]


def section(title):
    return re.search(rf"^## {title}\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)[1]


def test_the_table_of_models_is_that_of_the_training_runs():
    found = re.findall(r"\| `(\S+)` \| (.+?) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|", README)
    expected = [
        (
            name,
            sees(facts),
            f"{facts['parameters']:,}",
            f"{facts['held_out']['bits_per_character'] * math.log(2):.4f}",
            f"{facts['held_out']['bits_per_character']:.4f}",
        )
        for name, facts in FACTS.items()
    ]
    assert found == expected


def test_every_other_figure_is_that_of_the_training_runs():
    gpt = FACTS["gpt-shakespeare"]
    assert f"would cost {math.log(gpt['vocabulary']):.3f} nats" in README
    assert f"a GPT of {FACTS['bpe-shakespeare']['vocabulary']} tokens" in README
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


@pytest.fixture
def follow(hub, tmp_path, run_folder):
    """A reader who has trained a model, as runs/mine, and does what the README says: with their name, and this Hub."""
    for name in ("docs", "gpt", "train", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(run_folder, tmp_path / "runs" / "mine")
    env = hub.env(hub.WRITE, home=tmp_path / "home") | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(*command):
        command = [part.replace("user/", "alice/") for part in command]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_publish_as_it_says(hub, follow):
    lines = blocks("", section("Publish"))[0].splitlines()
    assert len(lines) == 4
    listed = follow("bash", "-c", lines[0])
    assert "nothing was sent" in listed
    assert hub.requests == []
    follow("bash", "-c", lines[1])
    repo = hub.repos["model", "alice/name"]
    assert len(repo.commits) == 2
    for name in set(repo.files()) - {".gitattributes"}:
        assert re.search(rf"^ +[\d,]+  {name}$", listed, re.MULTILINE), name
    assert len(follow("bash", "-c", lines[2])) > 250
    follow("bash", "-c", lines[3])
    assert len(repo.commits) == 2
    assert "app.py" in hub.repos["space", "alice/page"].files()


def test_use_a_model_of_the_hub_as_it_says(hub, follow, run_folder):
    hub.add_folder(run_folder, "alice/name")
    (example,) = [block for block in blocks("python", section("Use the weights")) if "user/name" in block]
    assert len(follow("python", "-c", example)) > 250
    hub.close()
    assert len(follow("python", "-c", example)) > 250  # from the cache


def test_a_program_of_its_own_as_it_says(follow):
    lines = next(block for block in blocks("", section("Use the weights")) if "export" in block).splitlines()
    follow("bash", "-c", lines[0])
    assert len(follow("bash", "-c", lines[1])) > 250
    params = SamplingParams(temperature=0, max_new_tokens=300)
    assert follow("bash", "-c", lines[2]) == load("gpt-shakespeare").generate("ROMEO:", params).text


def test_serve_it_with_another_engine_as_it_says():
    (serve, ask) = next(block for block in blocks("", section("Use the weights")) if "transformers serve" in block).splitlines()
    port = str(free_port())
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    serve, ask = (["bash", "-c", "exec " + line.replace("8000", port)] for line in (serve, ask))
    with subprocess.Popen(serve, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            deadline = time.monotonic() + 120
            while subprocess.run(["curl", "-s", f"http://localhost:{port}/health"], capture_output=True).returncode:
                assert server.poll() is None, server.stderr.read()
                assert time.monotonic() < deadline, "the engine did not start"
                time.sleep(0.3)
            answer = json.loads(subprocess.run([*ask[:2], ask[2] + " -s"], cwd=ROOT, capture_output=True, check=True).stdout)
        finally:
            server.terminate()
    params = SamplingParams(temperature=0, max_new_tokens=100)
    assert answer["choices"][0]["text"] == load("gpt-shakespeare").generate("ROMEO:", params).text


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
