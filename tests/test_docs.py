"""README.md and docs/: every code block runs, figures are those of the training runs, links lead somewhere."""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from browser import free_port, served

from gpt import SamplingParams, load
from gpt.generation import describe_context
from train.__main__ import build_parser

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
}
README, MODELS = DOCUMENTS["README.md"], DOCUMENTS["docs/models.md"]
FACTS = {path.parent.name: json.loads(path.read_text()) for path in sorted(ROOT.glob("weights/*/training.json"))}
SHIPPED_COMMANDS = [facts["command"] for facts in FACTS.values()]


class Block(NamedTuple):
    """A fenced code block, and the text block that shows its output, if there is one."""

    place: str
    language: str
    code: str
    output: str


def fenced_blocks():
    fence = re.compile(r"^```(\w*)\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
    for name, text in sorted(DOCUMENTS.items()):
        for match in fence.finditer(text):
            language, code, output = match.groups(default="")
            yield Block(
                f"{name}:{text[: match.start()].count(chr(10)) + 1}", language, code, output if language == "python" else ""
            )


BLOCKS = list(fenced_blocks())


def blocks(language):
    chosen = [block for block in BLOCKS if block.language == language and "model.pt2" not in block.code]
    return pytest.mark.parametrize("block", chosen, ids=[block.place for block in chosen])


@pytest.fixture
def reader(hub, tmp_path, run_folder, chain_text):
    """A function that runs what a reader of the docs types, in a checkout where runs/mine is a trained model."""
    for name in ("app.py", "benchmarks", "docs", "gpt", "train", "ui", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(run_folder, tmp_path / "runs" / "mine")
    (tmp_path / "my-text.txt").write_text(chain_text(20_000))
    (tmp_path / "my-lines.txt").write_text("\n".join(chain_text(10, seed=i) for i in range(200)))
    env = hub.env(hub.WRITE, home=tmp_path / "home") | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env["OMP_NUM_THREADS"] = "1"  # on a busy machine several would wait for each other

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.folder, run.env = tmp_path, env
    return run


def as_reader(code):
    """The reader's own account takes the place of `user`."""
    return code.replace("user/", "alice/")


def quick(line):
    """A shell command as the test runs it: with a small budget, on a small text, or not at all."""
    other_programs = "pip install", "npm install", "transformers serve", "curl", "llama-completion", "node"
    if line.startswith(other_programs) or line in SHIPPED_COMMANDS:
        return ""  # see tests/test_packaging.py, tests/test_formats.py and the tests below
    if line.startswith("python benchmarks/"):
        return f"{line} --help"
    line = line.replace("--data shakespeare", "--data my-text.txt")
    if " run " in line and "-m train" in line and not re.search(" run (ngram|mixture) ", line):  # these take no steps
        train = re.sub(r" --minutes [\d.]+", "", line)
        if "--resume" in line:  # of a run that has finished, with a larger budget
            return f"{train.replace(' --resume', '')} --steps 2 && {train} --steps 4"
        return f"{train} --steps 2"
    return line


@pytest.mark.slow
@blocks("python")
def test_python_block_runs(block, hub, reader, run_folder):
    if "user/" in block.code:
        hub.add_folder(run_folder, "alice/name")
    printed = reader("python", "-c", as_reader(block.code))
    if block.output:
        assert printed.strip("\n") == block.output.strip("\n")


@pytest.mark.slow
@blocks("bash")
def test_shell_block_runs(block, reader):
    if "--out runs/mine " in block.code:
        shutil.rmtree(reader.folder / "runs" / "mine")
    for line in map(as_reader, block.code.splitlines()):
        if line.startswith("python app.py"):
            with served(reader.folder, reader.env, shlex.split(line)[2:]) as address:
                assert address
        elif command := quick(line):
            reader("bash", "-c", command)


def test_every_block_is_run_or_plain_text():
    assert {block.language for block in BLOCKS} == {"bash", "python", "text"}


@pytest.mark.slow
def test_exported_program_generates_the_same_text(reader):
    (export,) = [block for block in BLOCKS if "model.pt2" in block.code]
    *_, last = [reader("bash", "-c", line) for line in export.code.splitlines()]
    params = SamplingParams(temperature=0, max_new_tokens=300)
    assert last == load("gpt-shakespeare").generate("ROMEO:", params).text


@pytest.mark.slow
def test_served_model_generates_the_same_text():
    (serve,) = [block.code for block in BLOCKS if block.code.startswith("transformers serve")]
    (ask,) = [block.code for block in BLOCKS if block.code.startswith("curl")]
    port = str(free_port())
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    serve, ask = (line.strip().replace("8000", port) for line in (serve, ask))
    with subprocess.Popen(
        ["bash", "-c", f"exec {serve}"], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            deadline = time.monotonic() + 120
            while subprocess.run(["curl", "-s", f"http://localhost:{port}/health"], capture_output=True).returncode:
                assert server.poll() is None, server.stderr.read()
                assert time.monotonic() < deadline, "the engine did not start"
                time.sleep(0.3)
            answer = json.loads(subprocess.run(["bash", "-c", f"{ask} -s"], cwd=ROOT, capture_output=True, check=True).stdout)
        finally:
            server.terminate()
    params = SamplingParams(temperature=0, max_new_tokens=100)
    assert answer["choices"][0]["text"] == load("gpt-shakespeare").generate("ROMEO:", params).text


def test_table_of_models_is_that_of_the_training_runs():
    def row(name, facts):
        bits = facts["held_out"]["bits_per_character"]
        unit = "character" if facts["tokenizer"] == "char" else "token"
        sees = describe_context(facts["context_length"], unit, "lines" in facts["data"])
        if facts["kind"] == "diffusion":
            sees = f"{facts['context_length']} characters at once"
        return name, sees, f"{facts['parameters']:,}", f"{bits * math.log(2):.4f}", f"{bits:.4f}"

    found = re.findall(r"^\| `(\S+)` \| (.+?) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$", MODELS, re.MULTILINE)
    assert found == [row(name, facts) for name, facts in FACTS.items() if "held_out" in facts]


def test_table_of_samples_is_that_of_the_training_runs():
    def row(name, facts):
        samples = facts["samples"]
        figures = *samples["js_divergence"][1:], samples["unique"], samples["new"], samples["nll_per_character"]
        return name, f"{facts['parameters']:,}", *(f"{figure:.3f}" for figure in figures)

    found = re.findall(r"^\| `(\S+)` \| ([\d,]+)" + r" \| ([\d.]+)" * 6 + r" \|$", MODELS, re.MULTILINE)
    assert found == [row(name, facts) for name, facts in FACTS.items() if "js_divergence" in facts.get("samples", {})]


def test_other_figures_are_those_of_the_training_runs():
    play, names = FACTS["gpt-shakespeare"], FACTS["gpt-names"]
    for facts in (play, names):
        assert f"{facts['baselines']['uniform']:.3f}" in MODELS
        assert re.search(rf"\b{facts['vocabulary']}\b", MODELS)
    assert f"{play['data']['characters']:,} characters" in MODELS
    assert f"{names['data']['lines']:,} documents" in MODELS
    assert f"a GPT with {FACTS['bpe-shakespeare']['vocabulary']} tokens" in MODELS
    assert f"the {len(FACTS)} shipped models" in README


def test_commands_of_the_shipped_models_are_listed_and_valid():
    (block,) = [block for block in BLOCKS if SHIPPED_COMMANDS[0] in block.code]
    assert sorted(block.code.splitlines()) == sorted(SHIPPED_COMMANDS)
    for command in SHIPPED_COMMANDS:
        build_parser().parse_args(shlex.split(command)[3:])


def test_layout_names_what_is_there():
    (layout,) = [block.code for block in BLOCKS if block.code.startswith("app.py")]
    for line in layout.splitlines():
        assert (ROOT / line.split()[0]).exists(), line


def test_readme_is_short():
    assert len(README.partition("\n# ")[2].splitlines()) <= 110  # without the settings of a Space


def test_space_runs_the_tested_gradio():
    lowest = re.search(r"^gradio\[oauth\]>=([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[1]
    assert f"sdk_version: {lowest}" in README


@pytest.mark.parametrize("name", [*DOCUMENTS, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert ((ROOT / name).parent / target).is_file(), target
