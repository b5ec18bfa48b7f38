"""`python -m gpt`, mostly in this process: a new one takes seconds to import torch."""

import os
import signal
import subprocess
import sys

import pytest
from tiny import randomized

from gpt import MaskedDiffusion, MaskedDiffusionConfig, SamplingParams, Tokenizer, UnmaskingParams, load
from gpt.__main__ import main
from gpt.checkpoint import save
from gpt.tokenizer import name_characters


@pytest.fixture
def run(command):
    return command("python -m gpt", main)


@pytest.fixture
def names_folder(make_gpt, tmp_path):
    """The weights folder of a model without capital letters."""
    tokenizer = Tokenizer.from_text("abcdefghijklmnopqrstuvwxyz\n")
    save(tmp_path / "names", make_gpt(vocab_size=len(tokenizer)), tokenizer)
    return tmp_path / "names"


@pytest.fixture
def diffusion_folders(tmp_path):
    """The weights folders of masked diffusion models of a running text and of lines."""
    tokenizer = Tokenizer.from_text("abcdefghijklmnopqrstuvwxyz \n")
    for name, length, eos_token_id in (("text", 32, None), ("lines", 9, tokenizer.start_id)):
        model = MaskedDiffusion(MaskedDiffusionConfig(len(tokenizer), length, 16, 16, 1, 2, eos_token_id))
        save(tmp_path / name, randomized(model), tokenizer)
    return {"text": tmp_path / "text", "lines": tmp_path / "lines"}


def start(*args, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "gpt", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.slow
def test_text_equals_that_of_the_library(folder):
    params = SamplingParams(temperature=0.7, top_k=9, top_p=0.9, min_p=0.01, max_new_tokens=50, seed=7)
    text = load(folder).generate("Both ", params).text
    options = "--length 50 --temperature 0.7 --top-k 9 --top-p 0.9 --min-p 0.01 --seed 7"
    process = start("--model", folder, "--prompt", "Both ", *options.split())
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err) == (0, f"Both {text}\n", "")


def test_a_new_seed_is_printed_and_gives_the_text_again(run, folder):
    status, out, err = run("--model", folder, "--length", 30)
    assert status == 0
    seed = err.removeprefix("seed ").strip()
    assert run("--model", folder, "--length", 30, "--seed", seed) == (0, out, "")


def test_branch_of_a_text(run, folder):
    text = load(folder).generate("A", SamplingParams(max_new_tokens=30, seed=1, forced=((3, 5), (9, 2)))).text
    assert run("--model", folder, "--prompt", "A", "--length", 30, "--seed", 1, "--forced", "3.5,9.2") == (0, f"A{text}\n", "")


def test_unknown_characters_are_named_on_stderr(run, folder):
    status, out, err = run("--model", folder, "--prompt", "Bo~t\u00a0h", "--length", 0, "--seed", 1)
    assert (status, out) == (0, "Bo~t\u00a0h\n")
    assert err.count("\n") == 1
    assert "~ no-break space;" in err


def test_prompt_is_lower_cased_for_a_vocabulary_without_capitals(run, names_folder):
    options = "--model", names_folder, "--length", 9, "--seed", 1
    status, out, err = run(*options, "--prompt", "Em ma")
    assert (status, err.count("\n")) == (0, 2)
    assert "lower case" in err
    assert "does not know space;" in err
    assert run(*options, "--prompt", "emma") == (0, out.replace("Em ma", "emma"), "")


@pytest.mark.parametrize(
    ("characters", "names"),
    [("é~", "é ~"), (" \n\t", "space line break tab"), ("\u0301\u200d\x01", "combining acute accent zero width joiner U+0001")],
)
def test_characters_are_named(characters, names):
    assert name_characters(characters) == names


def test_many_characters_are_shortened():
    assert name_characters("abc", 2) == "a b …"


def test_help_names_every_option_and_its_default(run):
    status, out, _ = run("--help")
    assert status == 0
    for option in (
        "model",
        "revision",
        "prompt",
        "length",
        "temperature",
        "top-k",
        "top-p",
        "min-p",
        "seed",
        "samples",
        "fill",
        "steps",
        "order",
    ):
        assert f"--{option} " in out
    for default in ("0.8;", "300;", "gpt-shakespeare)", "64)", "10)"):
        assert f"(default: {default}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--temperature", "-1.0", "from 0 to 5"),
        ("--temperature", "nan", "from 0 to 5"),
        ("--top-k", "-1", "from 0"),
        ("--top-p", "0.0", "above 0"),
        ("--min-p", "1.0", "below 1"),
        ("--length", "-4", "from 0 to 100,000"),
        ("--seed", "-1", "from 0 to 4294967295"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_option(run, folder, option, value, allowed):
    status, out, err = run("--model", folder, option, value)
    assert str(status).startswith(f"python -m gpt: {option} is {value}; ")
    assert allowed in status
    assert "None" not in status
    assert "\n" not in status
    assert (out, err) == ("", "")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("gpt", ["--fill", "To ___"], "is a GPT, which does not take --fill; it takes --prompt"),
        ("gpt", ["--steps", "9", "--samples", "2"], "does not take --samples, --steps;"),
        ("text", ["--top-k", "3"], "is a masked diffusion model, which does not take --top-k; it takes --prompt"),
        ("text", ["--samples", "3"], "writes a running text; leave --samples out"),
        ("text", ["--fill", "a", "--prompt", "b"], "--fill takes a whole text; leave --prompt"),
        ("text", ["--fill", "no gap"], "the text has no gap; write ___"),
        ("text", ["--fill", "___ " + "a" * 40], "the text is too long"),
        ("text", ["--length", "99"], "--length is 99; it must be a whole number from 1 to 32"),
        ("text", ["--steps", "0"], "--steps is 0; it must be a whole number from 1 to 1,024"),
        ("text", ["--order", "any"], "--order is 'any'; it must be one of confident, random, blocks"),
        ("lines", ["--length", "5"], "writes lines, which end by themselves; leave --length out"),
        ("lines", ["--samples", "0"], "--samples is 0; it must be a whole number from 1 to 10,000"),
        ("lines", ["--prompt", "a" * 40], "the prompt has 40 characters; a line has room for 7"),
    ],
)
def test_options_that_do_not_fit_the_model_are_one_sentence(run, folder, diffusion_folders, kind, options, message):
    status, out, _ = run("--model", {"gpt": folder, **diffusion_folders}[kind], *options)
    assert message in status
    assert (status.count("\n"), out) == (0, "")


def test_diffusion_options_are_those_of_the_library(run, diffusion_folders):
    lm = load(diffusion_folders["text"])
    params = UnmaskingParams(9, 0.7, "random", 5)
    options = "--model", diffusion_folders["text"], "--steps", 9, "--temperature", 0.7, "--order", "random", "--seed", 5
    text = lm.generate("be", params, 12)
    assert run(*options, "--prompt", "be", "--length", 12) == (0, f"be{text}\n", "")
    assert run(*options, "--fill", "ab ____ cd") == (0, f"{lm.fill('ab ____ cd', params).text}\n", "")


def test_lines_of_a_diffusion_model(run, diffusion_folders):
    lm = load(diffusion_folders["lines"])
    lines = lm.sample_batch(["ab"] * 3, 5)
    status, out, err = run("--model", diffusion_folders["lines"], "--prompt", "ab", "--samples", 3, "--seed", 5)
    assert (status, out.splitlines(), err) == (0, lines, "")
    assert all(line.startswith("ab") for line in lines)


def test_an_unknown_model_is_an_error_of_one_sentence(run):
    status, out, err = run("--model", "nonesuch/at/all")
    assert status.startswith("python -m gpt: ")
    assert "'nonesuch/at/all'" in status
    assert (status.count("\n"), out, err) == (0, "", "")


def test_a_value_of_another_type_is_a_usage_error(run):
    status, _, err = run("--temperature", "warm")
    assert status == 2
    assert "invalid float value: 'warm'" in err


# What each of these takes to import is a good part of a second. torch itself imports none of them.
HEAVY = {"sympy", "torch._dynamo", "torch._inductor", "huggingface_hub", "transformers", "pandas", "train"}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bigram-shakespeare", "gpt-shakespeare"])
def test_slow_imports_do_not_delay_the_first_character(model):
    code = "import sys; from gpt.__main__ import main; main(); print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, "--model", model, "--length", "1", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert {"torch", "gpt.checkpoint"} <= modules
    assert not HEAVY & modules


@pytest.mark.slow
def test_damaged_weights_are_an_error_without_traceback(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    process = start("--model", folder)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert out == ""
    assert err.startswith(f"python -m gpt: {path} is damaged")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_closed_pipe_ends_it_quietly(folder):
    process = start("--model", folder, "--length", 100_000, "--seed", 1)
    assert len(process.stdout.read(20)) == 20
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=100) == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_ends_it_with_130(folder):
    # A parent that runs tests in the background may ignore SIGINT, which its children would inherit.
    default_sigint = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = start("--model", folder, "--length", 100_000, "--seed", 1, **default_sigint)
    process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (130, "")
