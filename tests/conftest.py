"""What the tests share: tiny seeded models, a short text of our own, the page and its visitors, a Hub, and no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the Hub's client, which reads it once

import gc
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, FLAGS, Visit, free_port
from fake_hub import Hub
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from gpt import GPT, Bigram, BigramConfig, GPTConfig, LanguageModel, Tokenizer
from gpt.checkpoint import save
from gpt.hub import fail_fast
from train.configs import GPTTrainConfig
from train.data import TextDataset
from train.runs import train
from train.trainer import Budget

torch.set_num_threads(1)  # the models are so small that a second thread only waits

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
    """Pieces of words of that text, and all bytes."""
    return Tokenizer.bpe(text, 300)


@pytest.fixture
def make_gpt() -> Callable[..., GPT]:
    """A function that builds a tiny GPT with weights that all matter: a new GPT's own head is zero."""

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


def chain(length: int, alphabet: str = "abcde ", seed: int = 0) -> str:
    """A text in which each character depends on the last one."""
    draws = random.Random(seed)
    weights = {last: [draws.random() ** 3 for _ in alphabet] for last in alphabet}
    written = [alphabet[0]]
    while len(written) < length:
        written += draws.choices(alphabet, weights[written[-1]])
    return "".join(written)


@pytest.fixture(scope="session")
def chain_text() -> Callable[..., str]:
    return chain


@pytest.fixture(scope="session")
def data() -> TextDataset:
    """A text long enough to learn a little from."""
    return TextDataset("chain", chain(4_000), "0" * 64, None)


@pytest.fixture
def keeps_sigint() -> Iterator[None]:
    """Puts back the handler of Ctrl-C, which `python -m train run` replaces."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def text_file(tmp_path, data):
    """The text that the training tests learn from, as a file."""
    path = tmp_path / "chain.txt"
    path.write_text(data.text)
    return path


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs a command's main; each run returns its exit status or message, stdout and stderr."""

    def of(name, main):
        def run(*args):
            monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
            try:
                main()
                status = 0
            except SystemExit as leaving:
                status = leaving.code
            return status, *capsys.readouterr()

        return run

    return of


@pytest.fixture(scope="module")
def address():
    """The page, served from this process, so that a test can slow a model down or look at its texts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # gradio leaves event loops behind, unclosed, as it is built
        from app import LAUNCH, demo

        # A port that is free: gradio's own search leaves a socket open for each one that is not.
        where = {"server_name": "127.0.0.1", "server_port": free_port()}
        _, url, _ = demo.launch(**LAUNCH, **where, prevent_thread_lock=True, quiet=True)
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
def slow(monkeypatch):
    """Every model writes 50 characters a second, so that there is time to press Stop."""
    step = LanguageModel.step

    def slowly(self, rows):
        time.sleep(0.02)
        return step(self, rows)

    monkeypatch.setattr(LanguageModel, "step", slowly)


@pytest.fixture(scope="session")
def train_tiny(data):
    """A function that trains a tiny GPT for a moment and gives the folder that the run wrote."""

    def train(out, data=data, seed=1):
        config = GPTTrainConfig(layers=2, width=32, head_size=32, context=16, batch_tokens=128)
        command = "python -m train run gpt --steps 20"
        for _ in train("gpt", config, data, out, Budget(steps=20), seed=seed, command=command):
            pass
        return out

    return train


@pytest.fixture(scope="session")
def run_folder(train_tiny, tmp_path_factory):
    """What a short training run wrote. Nothing may change it."""
    return train_tiny(tmp_path_factory.mktemp("run") / "tiny")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub, which this process takes for the real one, with an empty cache. Nobody is logged in."""
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
        fail_fast.cache_clear()
        set_client_factory(default_client_factory)
