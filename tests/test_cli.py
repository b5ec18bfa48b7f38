"""`python -m gpt`, in this process where that is enough: a new one takes seconds to import torch."""

import os
import signal
import subprocess
import sys

import pytest

from gpt import SamplingParams, load
from gpt.__main__ import main, parser


@pytest.fixture
def run(command):
    return command("python -m gpt", main)


def start(*args, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "gpt", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_it_writes_what_the_library_writes(folder):
    params = SamplingParams(temperature=0.7, top_k=9, top_p=0.9, min_p=0.01, max_new_tokens=50, seed=7)
    text = load(folder).generate("Both ", params).text
    options = "--length 50 --temperature 0.7 --top-k 9 --top-p 0.9 --min-p 0.01 --seed 7"
    process = start("--model", folder, "--prompt", "Both ", *options.split())
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err) == (0, f"Both {text}\n", "")


def test_without_a_seed_one_is_told_that_writes_the_text_again(run, folder):
    status, out, err = run("--model", folder, "--length", 30)
    assert status == 0
    seed = err.removeprefix("seed ").strip()
    assert run("--model", folder, "--length", 30, "--seed", seed) == (0, out, "")


def test_unseen_characters_are_told_on_stderr(run, folder):
    status, out, err = run("--model", folder, "--prompt", "Bo~th", "--length", 0, "--seed", 1)
    assert (status, out, err) == (0, "Bo~th\n", "tiny never saw '~'; left out\n")


def test_defaults_are_those_of_the_library():
    args = vars(parser().parse_args([]))
    for name, value in vars(SamplingParams()).items():
        assert args[name] == value


def test_help_tells_every_option_and_its_default(run):
    status, out, _ = run("--help")
    assert status == 0
    for option in ("model", "revision", "prompt", "length", "temperature", "top-k", "top-p", "min-p", "seed"):
        assert f"--{option} " in out
    assert "(0.8)" in out
    assert "(gpt-shakespeare)" in out


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--temperature", -1, "temperature is -1.0; it must be a number from 0 to 5"),
        ("--temperature", "nan", "temperature is nan; it must be a number from 0 to 5"),
        ("--top-k", -1, "top_k is -1; it must be a whole number from 0 (off) up"),
        ("--top-p", 0, "top_p is 0.0; it must be a number above 0 and at most 1 (off)"),
        ("--min-p", 1, "min_p is 1.0; it must be a number from 0 (off) to below 1"),
        ("--length", -1, "max_new_tokens is -1; it must be a whole number from 0 to 100,000"),
        ("--seed", -1, "seed is -1; it must be a whole number from 0 to 4294967295, or None"),
        ("--model", "nonesuch/at/all", "there is no model 'nonesuch/at/all'; "),
    ],
)
def test_a_wrong_value_ends_with_one_sentence(run, folder, option, value, said):
    status, out, err = run("--model", folder, option, value)
    assert str(status).startswith(f"python -m gpt: {said}")
    assert (out, err) == ("", "")


def test_what_is_no_number_is_a_usage_error(run):
    status, _, err = run("--temperature", "warm")
    assert status == 2
    assert "invalid float value: 'warm'" in err


# What each of these takes to import is a good part of a second. torch itself brings none of them.
HEAVY = {"sympy", "torch._dynamo", "torch._inductor", "huggingface_hub", "transformers", "pandas", "train"}


@pytest.mark.parametrize("model", ["bigram-shakespeare", "gpt-shakespeare"])
def test_nothing_that_is_slow_to_import_stands_before_the_first_character(model):
    code = "import sys; from gpt.__main__ import main; main(); print(*sys.modules, file=sys.stderr)"
    call = [sys.executable, "-c", code, "--model", model, "--length", "1", "--seed", "1"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    imported = set(done.stderr.split())
    assert {"torch", "gpt.checkpoint"} <= imported
    assert not HEAVY & imported


def test_damaged_weights_end_with_one_sentence_and_no_traceback(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    process = start("--model", folder)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert out == ""
    assert err.startswith(f"python -m gpt: {path} is damaged")
    assert err.count("\n") == 1


def test_a_reader_that_has_had_enough_ends_it_quietly(folder):
    process = start("--model", folder, "--length", 100_000, "--seed", 1)
    assert len(process.stdout.read(20)) == 20
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=100) == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_ends_it_with_130(folder):
    # A parent that runs tests in the background may ignore Ctrl-C, which its children would inherit.
    wake = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = start("--model", folder, "--length", 100_000, "--seed", 1, **wake)
    process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (130, "")
