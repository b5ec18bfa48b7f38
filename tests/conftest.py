"""Shared fixtures: tiny seeded models, a short text, the page and its visitors, a local Hub, and no network.

Training modules are imported by the fixtures that use them, so that the tests of `gpt` need nothing of `train`.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, which reads it once

import gc
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from browser import CHROMIUM, FLAGS, Visit, free_port
from fake_hub import Hub
from huggingface_hub import close_session, constants

from gpt import GPT, BatchGenerator, Bigram, BigramConfig, GPTConfig, LanguageModel, Tokenizer
from gpt.checkpoint import save

if TYPE_CHECKING:
    from train.data import TextDataset

torch.set_num_threads(1)  # the models are too small for a second thread

TEXT = """\
The old clock in the hall struck five; "Quick," said Jo, "before the frost!"
WHO KEEPS THE LAMP?  Vera did, by the box: a dozen wicks, zinc & glass.

"PLEASE," he asked, "JUST ONE MORE?" -- (X marks it) -- QUIET, DULL, GREY, FOGBOUND.
Both walked on, past the mill's wheel...  Nobody spoke; why would they?
"""


@pytest.fixture(scope="session")
def text() -> str:
    """A few lines with quotes, double spaces and an empty line."""
    return TEXT


@pytest.fixture(scope="session")
def tokenizer(text: str) -> Tokenizer:
    return Tokenizer.from_text(text)


@pytest.fixture(scope="session")
def bpe(text: str) -> Tokenizer:
    """Byte-level BPE, trained on that text."""
    return Tokenizer.bpe(text, 300)


@pytest.fixture
def make_gpt() -> Callable[..., GPT]:
    """A function that builds a tiny GPT with random weights in every tensor: a new GPT's own head is zero."""

    def make(seed: int = 0, **sizes: int) -> GPT:
        tiny = {
            "vocab_size": 65,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "sliding_window": 16,
        }
        model = GPT(GPTConfig(**(tiny | sizes)))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim == 2:
                    p.normal_(std=0.3, generator=generator)
                else:  # the norms' weights, which start at 1
                    p.uniform_(0.5, 1.5, generator=generator)
        return model.eval()

    return make


@pytest.fixture
def tiny_gpt(make_gpt: Callable[..., GPT], tokenizer: Tokenizer) -> GPT:
    return make_gpt(vocab_size=len(tokenizer))


@pytest.fixture
def tiny_bigram(tokenizer: Tokenizer, text: str) -> Bigram:
    return Bigram(BigramConfig(len(tokenizer))).fit_counts(torch.tensor(tokenizer.encode(text).ids), k=0.1)


@pytest.fixture
def lm(tiny_gpt: GPT, tokenizer: Tokenizer) -> LanguageModel:
    return LanguageModel(tiny_gpt, tokenizer, "tiny")


@pytest.fixture
def folder(tiny_gpt: GPT, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """The weights folder of a tiny GPT."""
    save(tmp_path / "tiny", tiny_gpt, tokenizer)
    return tmp_path / "tiny"


def markov_chain(length: int, alphabet: str = "abcde ", seed: int = 0) -> str:
    """A text in which each character depends on the one before it."""
    rng = random.Random(seed)
    weights = {last: [rng.random() ** 3 for _ in alphabet] for last in alphabet}
    characters = [alphabet[0]]
    while len(characters) < length:
        characters += rng.choices(alphabet, weights[characters[-1]])
    return "".join(characters)


@pytest.fixture(scope="session")
def chain_text() -> Callable[..., str]:
    return markov_chain


@pytest.fixture(scope="session")
def data() -> "TextDataset":
    """A text that is long enough for a short training run."""
    from train.data import TextDataset

    return TextDataset("chain", (markov_chain(4_000),), "0" * 64)


@pytest.fixture(params=["gpt", "lstm"])
def line_model(request):
    """A model of 9 tokens with random weights; token 0 ends a document."""
    from train.configs import GPTTrainConfig, LSTMTrainConfig

    config = GPTTrainConfig(1, 32, context=8) if request.param == "gpt" else LSTMTrainConfig(2, 24)
    torch.manual_seed(0)
    model = config.build_model(9, 0).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(std=0.3)
    return model


@pytest.fixture(scope="session")
def line_data() -> "TextDataset":
    """60 lines of 2 to 5 letters."""
    from train.data import TextDataset

    lines = [f"{a}{b * n}" for a in "abcde" for b in "xyz" for n in range(1, 5)]
    return TextDataset.from_lines("items", "".join(f"{line}\n" for line in lines).encode())


@pytest.fixture
def keeps_sigint() -> Iterator[None]:
    """Restores the SIGINT handler, which `python -m train run` replaces."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def text_file(tmp_path, data):
    """The text of `data` as a file."""
    path = tmp_path / "chain.txt"
    path.write_text(data.text)
    return path


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs a command's `main`; each run returns its exit status or message, stdout and stderr."""

    def make(name, main):
        def run(*args):
            monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
            try:
                main()
                status = 0
            except SystemExit as error:
                status = error.code
            return status, *capsys.readouterr()

        return run

    return make


@pytest.fixture(scope="module")
def address():
    """The page, served from this process, so that a test can slow a model down or read its texts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # building a gradio app leaves event loops unclosed
        from app import LAUNCH, demo

        # A free port is given, because gradio's own search leaves a socket open for each busy one.
        server = {"server_name": "127.0.0.1", "server_port": free_port()}
        _, url, _ = demo.launch(**LAUNCH, **server, prevent_thread_lock=True, quiet=True)
        gc.collect()
    yield url.rstrip("/")
    demo.close()


@pytest.fixture(scope="module")
def chromium():
    if not CHROMIUM:
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail("REQUIRE_BROWSER is set, but no Chromium is installed")
        pytest.skip("no Chromium is installed: the page was not tried in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    visits = []

    def start(path="", **options):
        visits.append(Visit(chromium, address, path, **options))
        return visits[-1]

    yield start
    for one in visits:
        one.context.close()
        assert one.faults == []


@pytest.fixture
def slow_generation(monkeypatch):
    """Every model generates 50 tokens a second, so that there is time to press Stop."""
    step = BatchGenerator.step

    def slow_step(self):
        time.sleep(0.02)
        return step(self)

    monkeypatch.setattr(BatchGenerator, "step", slow_step)


@pytest.fixture(scope="session")
def train_tiny(data):
    """A function that trains a tiny GPT for 20 steps and returns the folder of the run."""

    def run(out, data=data, seed=1):
        from train.configs import GPTTrainConfig
        from train.runs import train
        from train.trainer import Budget

        config = GPTTrainConfig(layers=2, width=32, head_size=32, context=16, batch_tokens=128)
        command = "python -m train run gpt --steps 20"
        for _ in train("gpt", config, data, out, Budget(steps=20), seed=seed, command=command):
            pass
        return out

    return run


@pytest.fixture(scope="session")
def run_folder(train_tiny, tmp_path_factory):
    """The folder of a short training run. Tests must not change it."""
    return train_tiny(tmp_path_factory.mktemp("run") / "tiny")


@pytest.fixture(scope="module")
def endpoints():
    """The page's endpoints on a server of their own, without Gradio."""
    from visitors import serve_endpoints

    with serve_endpoints() as address:
        yield address


@pytest.fixture
def temporary_folder(tmp_path_factory, monkeypatch):
    """A folder for temporary files, which tests that run beside this one do not use."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def visitor(endpoints, temporary_folder, monkeypatch):
    """A function that makes visitors of a page without other visits. In the end, nothing is left of theirs."""
    from visitors import Visitor, wait_until

    from ui import training
    from ui.visits import visits

    monkeypatch.setattr(visits, "_visits", OrderedDict())
    made = []

    def make():
        made.append(Visitor(endpoints))
        return made[-1]

    yield make
    for one in made:
        one.post("visit/end", {})
        one.close()
    assert not visits._visits
    wait_until(lambda: not training.queue.running + training.queue.waiting, "the end of all trainings")


@pytest.fixture
def fake_worker(monkeypatch, own_models):
    """Trainings do what their text says (tests/fake_worker.py), in place of training."""
    from ui import jobs

    monkeypatch.setattr(jobs, "WORKER", (sys.executable, str(Path(__file__).with_name("fake_worker.py"))))
    monkeypatch.setenv("FAKE_MODELS", str(own_models))


@pytest.fixture(scope="session")
def own_models(train_tiny, data, tmp_path_factory):
    """The folders that a training leaves: a tiny GPT and a counted bigram."""
    from train.counting import fit_bigram
    from train.runs import fit_counts

    folder = tmp_path_factory.mktemp("models")
    train_tiny(folder / "gpt")
    (folder / "gpt" / "resume.pt").unlink()
    list(fit_counts(data, folder / "bigram", seed=1, command="python -m train run bigram", kind="bigram", fit=fit_bigram))
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local Hub in place of huggingface.co, with an empty cache and no token."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        yield hub
        close_session()
