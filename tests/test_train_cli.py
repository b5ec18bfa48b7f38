"""`python -m train` in this process. tests/test_runs.py stops and kills real ones."""

import hashlib
import json
import math
import os
import re
import signal
from random import Random

import pytest
import torch

from gpt import Tokenizer, load
from train.__main__ import CONFIG_OPTIONS, STOP_SIGNALS, build_parser, main, pick_config, recorded_command, show_events
from train.advice import choose_config, describe_baselines, describe_verdict
from train.configs import TRAIN_CONFIGS
from train.counting import fit_baselines
from train.data import SHUFFLE_SEED, SOURCES
from train.text_report import report_text
from train.tokenizers import tokenize
from train.trainer import EndEvent, EvalEvent, ProgressEvent, StepEvent

SMALL = ["--layers", "1", "--width", "32", "--context", "16", "--device", "cpu"]


@pytest.fixture
def cli(command, keeps_sigint):
    return command("python -m train", main)


@pytest.fixture
def run(cli, text_file, tmp_path):
    """A function that runs `run KIND` into tmp_path/KIND, expects success, and returns the content of training.json."""

    def run(kind, *options, data=text_file, out=None):
        out = tmp_path / (out or kind)
        status, _, err = cli("run", kind, "--data", data, "--out", out, *options)
        assert status == 0, err
        return facts_of(out)

    return run


def facts_of(out):
    return json.loads((out / "training.json").read_text(encoding="utf-8"))


def error_of(result) -> str:
    """The message of a command that failed: one sentence, no traceback, and nothing on stdout."""
    status, out, err = result
    assert isinstance(status, str)  # sys.exit prints it and ends with 1
    assert status.startswith("python -m train: ")
    assert "\n" not in status
    assert "Traceback" not in err
    assert out == ""
    return status.removeprefix("python -m train: ")


# Runs


def test_a_bigram_is_counted(cli, text_file, tmp_path):
    out = tmp_path / "out"
    status, said, err = cli("run", "bigram", "--data", text_file, "--out", out)
    assert status == 0
    facts = facts_of(out)
    assert (facts["method"], facts["seed"]) == ("counting", 1337)
    assert facts["data"]["sha256"] == hashlib.sha256(text_file.read_bytes()).hexdigest()
    assert load(out).context_length == 1
    assert f"{facts['held_out']['nats_per_token']:.4f}" in said + err


def test_a_bigram_with_a_budget_is_trained(run):
    facts = run("bigram", "--steps", 3)
    assert (facts["method"], facts["run_steps"]) == ("gradient descent", 3)


@pytest.mark.parametrize("typed", ["made", "./made", "runs/made", "made/"])
def test_the_last_line_names_the_folder_as_typed(cli, text_file, tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    status, said, _ = cli("run", "bigram", "--data", text_file, "--out", typed)
    assert status == 0
    assert said.splitlines()[-1] == f"The model is in {typed}. Try: python -m gpt --model {typed}"
    assert load(typed).context_length == 1


def test_a_gpt_is_trained_with_the_options_of_the_command_line(cli, text_file, tmp_path):
    out = tmp_path / "out"
    status, said, err = cli("run", "gpt", "--data", text_file, "--out", out, "--steps", 3, "--dropout", 0.1, "--seed", 9, *SMALL)
    assert status == 0
    facts = facts_of(out)
    options = {"layers": 1, "width": 32, "context": 16, "dropout": 0.1}
    assert {name: facts["train_config"][name] for name in options} == options
    assert (facts["seed"], facts["run_steps"], facts["finished"]) == (9, 3, True)
    assert facts["command"].startswith("python -m train run gpt --data chain.txt ")
    assert re.search(r"step 3: train \d\.\d{4}, held out \d\.\d{4} nats a token", said + err)
    line = re.search(r"^\s*([\d,]+) tokens in .*?, ([\d,]+) tokens/s: (.*)$", said + err, re.MULTILINE)
    shares = dict(part.removesuffix(" %").rsplit(" ", 1) for part in line[3].split(", "))
    assert shares.keys() == facts["timings"].keys()
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=0.5)


@pytest.mark.slow
def test_minutes_pick_the_size(run):
    facts = run("gpt", "--minutes", 0.001, "--device", "cpu")
    assert facts["budget"] == {"minutes": 0.001}
    assert (facts["train_config"]["layers"], facts["train_config"]["width"]) == (2, 64)


@pytest.mark.slow
def test_a_run_of_a_few_steps_ends_with_a_warning(cli, text_file, tmp_path):
    _, _, err = cli("run", "gpt", "--data", text_file, "--out", tmp_path / "out", "--minutes", 0.001, "--device", "cpu")
    assert re.search(r"Warning: .*\d+ steps", err)


@pytest.mark.slow
def test_a_context_of_one_can_be_trained(run, tmp_path):
    run("gpt", "--steps", 3, *SMALL, "--context", 1)
    assert load(tmp_path / "gpt").context_length == 1


@pytest.mark.slow
def test_a_finished_run_continues_with_a_larger_budget(cli, run, text_file, tmp_path):
    words = ["run", "gpt", "--data", text_file, "--out", tmp_path / "gpt", *SMALL, "--resume"]
    run("gpt", "--steps", 3, *SMALL)
    assert "larger budget" in error_of(cli(*words, "--steps", 3))
    assert cli(*words, "--steps", 5)[0] == 0
    facts = facts_of(tmp_path / "gpt")
    assert (facts["run_steps"], facts["budget"], facts["finished"]) == (5, {"steps": 5}, True)
    assert "finished" in error_of(cli(*words))  # without a budget, that of the run


def test_a_larger_budget_keeps_the_size_of_the_run(data):
    words = ["run", "gpt", "--data", "x", "--out", "y", "--resume", "--minutes", "45"]
    args, resumed = build_parser().parse_args(words), TRAIN_CONFIGS["gpt"].preset(0.5)
    assert pick_config(args, "gpt", data, resumed) == resumed
    assert pick_config(args, "gpt", data) != resumed


@pytest.mark.slow
def test_an_ngram_is_counted_and_mixed_with_a_gpt(cli, run, text_file, tmp_path):
    run("ngram")
    run("gpt", "--steps", 3, *SMALL)
    facts = run("mixture", "--of", tmp_path / "gpt", tmp_path / "ngram")
    assert facts["command"].startswith("python -m train run mixture --data chain.txt --out mixture --of gpt ngram")
    for name in ("ngram", "mixture"):
        _, said, _ = cli("evaluate", tmp_path / name, "--data", text_file)
        assert float(said.split()[0]) == pytest.approx(facts_of(tmp_path / name)["held_out"]["nats_per_token"], abs=1e-4)


def test_a_teacher_is_named(run, tmp_path):
    run("bigram")
    facts = run("gpt", *SMALL, "--steps", "2", "--distill", tmp_path / "bigram")
    assert facts["teacher"]["name"] == "bigram"
    assert facts["command"].endswith("--distill bigram")


@pytest.mark.slow
def test_a_vae_is_evaluated_by_its_bound(cli, run, tmp_path, line_data):
    path = tmp_path / "items.txt"
    path.write_text(line_data.text)
    facts = run("vae", "--lines", "--steps", 150, "--width", 48, "--free-bits", 0.25, data=path)
    assert (facts["train_config"]["width"], facts["train_config"]["free_bits"]) == (48, 0.25)
    assert facts["timings"]["measuring"] > 0
    _, said, _ = cli("evaluate", tmp_path / "vae", "--data", path)
    assert float(said.split()[0]) == pytest.approx(facts["held_out"]["nats_per_token"], abs=0.01)
    reconstruction = facts["latent"]["reconstruction"] * facts["latent"]["lines"] / facts["held_out"]["tokens"]
    assert float(said.split()[0]) > reconstruction + 0.01  # the bound includes the latent vector


def test_diffusion_starts_from_a_gpt(cli, run, text_file, tmp_path):
    run("gpt", *SMALL, "--steps", "2")
    facts = run("diffusion", "--steps", "2", "--device", "cpu", "--dropout", "0.1", "--init", tmp_path / "gpt")
    assert facts["init"]["name"] == "gpt"
    sizes = {name: facts["train_config"][name] for name in ("layers", "width", "heads", "context", "dropout")}
    assert sizes == {"layers": 1, "width": 32, "heads": 1, "context": 16, "dropout": 0.1}
    run("bigram")
    out = tmp_path / "other"
    status, _, _ = cli("run", "diffusion", "--data", text_file, "--steps", "2", "--init", tmp_path / "bigram", "--out", out)
    assert "a diffusion run starts from a GPT, not from a bigram; leave --init out" in status


@pytest.mark.parametrize("options", ["bigram", "ngram", "gpt --steps 2 --layers 1 --width 32 --device cpu"])
def test_a_line_longer_than_a_tenth_of_the_text_is_learned(run, tmp_path, options):
    """Shuffling puts it at the end of the training part, whose last tenth of tokens holds no complete line then."""
    order = list(range(30))
    Random(SHUFFLE_SEED).shuffle(order)
    lines = [f"line {i}" for i in range(30)]
    lines[order[26]] = "x" * 255  # of 27 training lines
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(lines))
    kind, *options = options.split()
    facts = run(kind, "--lines", *options, data=path)
    assert facts["finished"]
    assert math.isfinite(facts["held_out"]["nats_per_token"])


@pytest.mark.slow
def test_a_run_is_compared_with_counting(cli, text_file, tmp_path, data):
    """The sentences are those of the page: the report, the baselines, the rule's advice, the verdict."""
    out = tmp_path / "out"
    words = ["run", "gpt", "--data", text_file, "--out", out, *SMALL, "--minutes", 0.005]
    status, said, err = cli(*words)
    assert status == 0, err
    report, tokenized = report_text(data.text), tokenize(data)
    counted = fit_baselines(tokenized)
    losses = {"bigram": counted["bigram"].nll.mean().item(), "n-gram": counted["ngram"].nll.mean().item()}
    uniform, order = math.log(len(tokenized.tokenizer)), counted["ngram"].facts["order"]
    choice = choose_config("gpt", "small", tokens=3_600, vocab_size=len(tokenized.tokenizer), seconds=0.3)
    lines = said.splitlines()
    assert lines[:4] == [
        f"chain: 4,000 characters, {report.distinct_characters} different, one running text.",
        report.expectation,
        describe_baselines(uniform, *losses.values(), order),
        f"Advice: Try --layers 2 --width 64 --context {choice.config.context}. {' '.join(choice.reasons)}",
    ]
    mine = facts_of(out)["held_out"]["nats_per_token"]
    assert lines[-2] == describe_verdict({**losses, "GPT": mine}, list(losses), "GPT")
    _, said, _ = cli(*words, "--resume", "--minutes", 0.01)
    assert "Advice" not in said


@pytest.mark.slow
def test_advice_for_the_chosen_settings_is_that_they_suit(cli, text_file, tmp_path):
    options = ["--minutes", 0.002, "--context", 128, "--device", "cpu"]
    _, said, _ = cli("run", "bigram", "--data", text_file, "--out", tmp_path / "out", *options)
    assert "Advice: The settings suit this text and time." in said
    assert "trained bigram" in said.splitlines()[-2]


def test_counting_is_not_compared_with_itself(cli, text_file, tmp_path):
    _, said, _ = cli("run", "bigram", "--data", text_file, "--out", tmp_path / "out")
    assert "uniform" not in said


def test_a_text_of_windows_is_read(cli, tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes("é日\r\nb\r\n".encode("utf-16") + ("ab\r\n" * 50).encode("utf-16-le"))
    assert cli("run", "bigram", "--data", path, "--out", tmp_path / "out")[0] == 0
    assert set(load(tmp_path / "out").tokenizer.vocab) == set("é日ab\n")


# Tokenizers


@pytest.mark.slow
def test_a_bpe_model_is_trained_and_evaluated(cli, run, tmp_path, text_file, data):
    facts, lm = run("gpt", "--tokenizer", "bpe:280", "--steps", 3, *SMALL), load(tmp_path / "gpt")
    assert (facts["tokenizer"], facts["vocabulary"], len(lm.tokenizer)) == ("bpe:280", 280, 280)
    train_part, last = (part.text for part in data.split())
    held_out = facts["held_out"]
    assert lm.tokenizer.files() == Tokenizer.bpe(train_part, 280).files()
    ids = lm.tokenizer.encode(last).ids
    assert held_out["tokens"] == len(ids) - 1 < 0.7 * len(last)
    characters = len(last) - len(lm.tokenizer.decode(ids[:1]))
    bits = held_out["nats_per_token"] * held_out["tokens"] / math.log(2)
    assert held_out["bits_per_character"] == held_out["bits_per_byte"] == pytest.approx(bits / characters)
    status, said, _ = cli("evaluate", tmp_path / "gpt", "--data", text_file)
    assert (status, said.split()[4]) == (0, f"{held_out['bits_per_character']:.4f}")
    assert facts["baselines"] == run("bigram")["baselines"]  # those are of characters with any tokenizer


@pytest.mark.slow
def test_bits_per_byte_count_the_bytes_of_each_character(cli, run, tmp_path, data):
    path = tmp_path / "odd.txt"
    path.write_text(data.text.replace("a", "日"), encoding="utf-8")
    last = data.split()[1].text.replace("a", "日")
    bytes_per_character = len(last.encode()) / len(last)
    for tokenizer in ("char", "bpe:280"):
        held_out = run("gpt", "--tokenizer", tokenizer, "--steps", 2, *SMALL, data=path, out=tokenizer)["held_out"]
        assert held_out["bits_per_character"] / held_out["bits_per_byte"] == pytest.approx(bytes_per_character, rel=0.01)
        said = cli("evaluate", tmp_path / tokenizer, "--data", path)[1]
        assert float(said.split()[8]) == pytest.approx(held_out["bits_per_byte"], abs=1e-4)


@pytest.mark.slow
def test_counted_models_and_mixtures_take_bpe(cli, run, text_file, tmp_path):
    for kind in ("bigram", "ngram"):
        run(kind, "--tokenizer", "bpe:270")
        assert len(load(tmp_path / kind).tokenizer) == 270
    facts = run("mixture", "--of", tmp_path / "bigram", tmp_path / "ngram")
    assert (facts["tokenizer"], facts["vocabulary"]) == ("bpe:270", 270)
    assert [part["kind"] for part in facts["parts"]] == ["bigram", "ngram"]
    run("ngram", out="characters")
    of = ["--of", tmp_path / "bigram", tmp_path / "characters"]
    error = error_of(cli("run", "mixture", *of, "--data", text_file, "--out", tmp_path / "no"))
    assert "do not share a tokenizer" in error


# Evaluation


@pytest.mark.slow
def test_evaluate_gives_the_figures_of_the_run(cli, run, text_file, tmp_path):
    for kind, options in (("bigram", []), ("gpt", ["--steps", 3, *SMALL])):
        held_out = run(kind, *options)["held_out"]
        status, said, err = cli("evaluate", tmp_path / kind, "--data", text_file)
        assert (status, err) == (0, "")
        printed = re.fullmatch(r"(.*) nats a token, (.*) bits a character, (.*) bits a byte \((.*) tokens\)\n", said)
        nats, bits, bits_per_byte, tokens = printed.groups()
        assert float(nats) == pytest.approx(held_out["nats_per_token"], abs=1e-4)
        assert float(bits) == pytest.approx(held_out["bits_per_character"], abs=1e-4)
        assert bits_per_byte == bits  # the text is ASCII
        assert int(tokens.replace(",", "")) == held_out["tokens"]


def test_evaluate_reports_characters_outside_the_vocabulary(cli, run, tmp_path, data):
    run("bigram")
    (tmp_path / "odd.txt").write_text(data.text + "~=" * 20)
    status, _, err = cli("evaluate", tmp_path / "bigram", "--data", tmp_path / "odd.txt")
    assert status == 0
    assert "'~='" in err


def test_evaluate_refuses_what_it_cannot_score(cli, run, text_file, tmp_path):
    run("bigram")
    (tmp_path / "few.txt").write_text("ab")
    assert "too few tokens to score" in error_of(cli("evaluate", tmp_path / "bigram", "--data", tmp_path / "few.txt"))
    (tmp_path / "bigram" / "model.safetensors").write_bytes(b"")
    assert "model.safetensors is damaged" in error_of(cli("evaluate", tmp_path / "bigram", "--data", text_file))


# Errors


@pytest.mark.parametrize("kind", ["bigram", "gpt"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no text could be read from"),
        (b"caf\xe9", "is not UTF-8 text"),
        (b"%PDF-1.7", "chain.txt cannot be used: the file is a PDF, not a plain text"),
        (b"\x7fELF\0\xff", "is not a text but binary data"),
        (b"", "chain has 0 characters; a run with windows of"),
        (b"too short", "chain has 9 characters; a run with windows of"),
    ],
)
def test_unusable_data_is_a_sentence(cli, text_file, tmp_path, kind, content, expected):
    text_file.unlink()
    if content is not None:
        text_file.write_bytes(content)
    assert expected in error_of(cli("run", kind, "--data", text_file, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("gpt --steps 1 --width 33", "a width of 33 does not divide into heads of 32"),
        ("gpt --steps 1 --layers 1000000000", "num_hidden_layers is 1000000000"),
        ("gpt --steps 1 --context 9999", "chain has 4000 characters; a run with windows of 9999 needs"),
        ("gpt --steps 1 --free-bits 1", "does not take --free-bits"),
        ("bigram --layers 2 --width 64", "does not take --layers, --width; leave that out, or give --steps"),
        ("ngram --width 64 --minutes 3 --resume", "does not take --minutes, --resume, --width; leave that out"),
        ("ngram --of a b", "does not take --of"),
        ("lstm --steps 1 --compile", "is not compiled; leave --compile out"),
        ("ngram --distill a", "does not take --distill"),
        ("vae --lines --steps 1 --distill a", "does not take --distill"),
        ("gpt --steps 1 --distill zebra", "zebra"),
        ("gpt --steps 1 --distill gpt-shakespeare", "gpt-shakespeare was not trained on this text"),
        ("gpt --steps 1 --init a", "does not take --init"),
        ("diffusion --steps 1 --init gpt-shakespeare", "gpt-shakespeare was not trained on this text"),
        ("mixture", "needs two models; name them with --of"),
        ("mixture --of a b --steps 3", "does not take --steps; leave that out"),
        ("mixture --of zebra gpt-shakespeare", "zebra"),
        ("mixture --of bigram-shakespeare gpt-shakespeare", "bigram-shakespeare was not trained on this text"),
        ("mixture --of a b --tokenizer bpe:300", "does not take --tokenizer"),
        ("vae --steps 1", "a VAE is trained on lines; give --lines"),
        ("gpt --steps 1 --tokenizer bpe:5", "bpe:5 is no vocabulary"),
        ("gpt --steps 1 --tokenizer zebra", "no tokenizer could be read from 'zebra'"),
        ("gpt --steps 1 --tokenizer bpe:60000", "chain is too short for bpe:60000"),
        ("gpt --steps 1 --resume", "there is nothing to resume in"),
    ],
)
def test_options_that_do_not_fit_are_a_sentence(cli, text_file, tmp_path, options, expected):
    kind, *rest = options.split()
    assert expected in error_of(cli("run", kind, "--data", text_file, "--out", tmp_path / "out", *rest))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--minutes -1", "argument --minutes: '-1'"),
        ("--minutes nan", "argument --minutes: 'nan'"),
        ("--minutes inf", "argument --minutes: 'inf'"),
        ("--steps 0", "argument --steps: '0'"),
        ("--steps 1.5", "argument --steps: '1.5'"),
        ("--seed -1", "argument --seed: '-1' is not allowed; give a whole number from 0 to 4294967295"),
        ("--seed 4294967296", "argument --seed: '4294967296'"),
        ("--width 0", "argument --width: '0'"),
        ("--context -5", "argument --context: '-5'"),
        ("--dropout 1", "argument --dropout: '1'"),
        ("--free-bits nan", "argument --free-bits: 'nan'"),
        ("--steps 1 --minutes 1", "not allowed with argument"),
        ("--frob", "unrecognized arguments: --frob"),
    ],
)
def test_a_value_out_of_range_names_its_option(cli, options, expected):
    status, _, err = cli("run", "gpt", "--data", "x", "--out", "y", *options.split())
    assert status == 2
    assert expected in err.splitlines()[-1]


@pytest.mark.parametrize("words", ["", "frob", "run", "run rnn --data x --out y", "run gpt --out y"])
def test_a_usage_error_ends_with_two(cli, words):
    status, _, err = cli(*words.split())
    assert status == 2
    assert "usage: python -m train" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_cuda_is_a_sentence(cli, text_file, tmp_path):
    error = error_of(cli("run", "gpt", "--data", text_file, "--out", tmp_path / "out", "--device", "cuda"))
    assert "there is no CUDA device" in error


@pytest.mark.parametrize(
    ("options", "compiles"), [("", True), ("--no-compile", False), ("--device cpu", False), ("--device cpu --compile", True)]
)
def test_a_gpu_is_used_and_compiled_for_by_default(cli, text_file, tmp_path, monkeypatch, options, compiles):
    def train(*_, device, compile, **__):
        raise ValueError(f"{device} {compile}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("train.__main__.train", train)
    error = error_of(cli("run", "gpt", "--data", text_file, "--out", tmp_path / "out", *options.split()))
    assert error == f"{'cpu' if 'cpu' in options else 'cuda'} {compiles}"


@pytest.mark.parametrize("kind", ["bigram", "gpt"])
def test_a_folder_in_use_is_refused_and_left_as_it_is(cli, text_file, tmp_path, kind):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    error = error_of(cli("run", kind, "--data", text_file, "--out", out, *(SMALL if kind == "gpt" else [])))
    assert "is not empty; name another folder" in error
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("notes.txt", "mine")]


@pytest.mark.parametrize("kind", ["bigram", "gpt"])
def test_a_folder_that_cannot_be_made_is_a_sentence(cli, text_file, tmp_path, kind):
    (tmp_path / "file").write_text("")
    result = cli("run", kind, "--data", text_file, "--out", tmp_path / "file" / "out")
    assert str(tmp_path / "file" / "out") in result[0]
    assert "Not a directory" in result[0]
    assert "Errno" not in result[0]


@pytest.mark.slow
def test_a_damaged_training_json_is_a_sentence(cli, run, text_file, tmp_path):
    run("gpt", "--steps", 3, *SMALL)
    (tmp_path / "gpt" / "training.json").write_text("{")
    error = error_of(cli("run", "gpt", "--data", text_file, "--out", tmp_path / "gpt", "--steps", 5, *SMALL, "--resume"))
    assert "training.json is damaged" in error


# Help and the recorded command


def test_help_names_sources_and_options(cli):
    status, out, _ = cli("run", "--help")
    assert status == 0
    assert all(name in out for name in (*SOURCES, "--free-bits", "--resume"))
    args = build_parser().parse_args(["run", "gpt", "--data", "x", "--out", "y"])
    assert str(args.seed) in out
    assert all(getattr(args, name) is None for name in CONFIG_OPTIONS)


@pytest.mark.parametrize("words", [["--data", "/home/me/my text.txt"], ["--data=/home/me/my text.txt"]])
def test_the_recorded_command_has_no_absolute_path(words):
    command = recorded_command(["run", "gpt", *words, "--out", "runs/mine"])
    assert "/home" not in command
    assert command.startswith("python -m train run gpt ")
    assert "my text.txt" in command
    assert command.endswith("--out runs/mine")


# Events


def interrupting_events(number, closed):
    """Events of a run that gets a signal after the first step."""
    try:
        yield StepEvent(1, 0.5, 2.0, 100.0)
        os.kill(os.getpid(), number)
        yield StepEvent(2, 1.0, 2.0, 100.0)
        yield EndEvent(2, 1.0, 100)
    except GeneratorExit:
        closed.append(True)
        raise


@pytest.fixture
def handles_signals():
    """Signals have their default handlers; under `nohup`, SIGHUP would be ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("evaluated", [False, True])
def test_a_signal_ends_a_run_between_two_steps(handles_signals, capsys, tmp_path, evaluated, number):
    handler, closed = signal.getsignal(number), []
    if evaluated:
        (tmp_path / "training.json").write_text("{}")
    with pytest.raises(SystemExit) as error:
        show_events(interrupting_events(number, closed), tmp_path)
    assert error.value.code == 128 + number
    assert closed == [True]
    assert signal.getsignal(number) is handler
    out = capsys.readouterr().out
    assert "--resume" in out
    assert ("holds no model yet" in out) is not evaluated


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_nohup_keeps_a_run_alive(keeps_sigint, tmp_path):
    handler, closed = signal.signal(signal.SIGHUP, signal.SIG_IGN), []
    try:
        show_events(interrupting_events(signal.SIGHUP, closed), tmp_path)
    finally:
        signal.signal(signal.SIGHUP, handler)
    assert closed == []


def test_ctrl_c_before_the_first_step_ends_with_130(cli, text_file, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("train.__main__.load_dataset", interrupted)
    assert cli("run", "gpt", "--data", "shakespeare", "--out", tmp_path / "out")[0] == 130


def test_closing_measurements_have_a_bar_of_their_own(capsys, tmp_path):
    timings = {"forward": 3.0, "measuring": 1.0}
    events = [StepEvent(9, 1.0, 2.0, 100.0), *(ProgressEvent("measuring", i / 4) for i in range(5))]
    show_events((event for event in [*events, EvalEvent(9, 3.0, 2.0, 2.5, True), EndEvent(9, 3.0, 900, timings)]), tmp_path)
    out, err = capsys.readouterr()
    bars = re.findall(r"(step 9|measuring) +(\d+)%", err)
    assert ("measuring", "100") in bars
    assert "forward 75.0 %, measuring 25.0 %" in out
