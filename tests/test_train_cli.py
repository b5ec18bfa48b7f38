"""`python -m train`, in this process: what a real one does when it is stopped or killed is in test_run.py."""

import hashlib
import json
import math
import re

import pytest
import torch
from test_lines import CONTENT

from gpt import Tokenizer, load
from train.__main__ import main, parser
from train.data import SOURCES

SMALL = ["--layers", "1", "--width", "32", "--context", "16", "--device", "cpu"]


@pytest.fixture
def run(command, keeps_sigint):
    return command("python -m train", main)


def refused(answer) -> str:
    """One sentence instead of a traceback: a status that is text ends the process with 1."""
    status, out, _ = answer
    assert isinstance(status, str)
    assert status.startswith("python -m train: ")
    assert "\n" not in status
    assert out == ""
    return status.removeprefix("python -m train: ")


def facts_of(out):
    return json.loads((out / "training.json").read_text(encoding="utf-8"))


def test_a_bigram_is_counted(run, text_file, tmp_path):
    status, out, err = run("run", "bigram", "--data", text_file, "--out", tmp_path / "out")
    assert status == 0
    assert out.endswith(f"The model is in {tmp_path / 'out'}. Try: python -m gpt --model {tmp_path / 'out'}\n")
    facts = facts_of(tmp_path / "out")
    assert facts["method"] == "counting"
    assert facts["seed"] == 1337
    assert facts["data"]["sha256"] == hashlib.sha256(text_file.read_bytes()).hexdigest()
    assert load(tmp_path / "out").window == 1
    assert f"{facts['evaluate']['nats_per_token']:.4f}" in out + err


def test_an_ngram_is_counted_and_mixed_with_another_model(run, text_file, tmp_path):
    status, out, _ = run("run", "ngram", "--data", text_file, "--out", tmp_path / "ngram")
    assert status == 0
    facts = facts_of(tmp_path / "ngram")
    assert (facts["kind"], facts["method"]) == ("ngram", "counting")
    run("run", "gpt", "--data", text_file, "--out", tmp_path / "gpt", "--steps", 3, *SMALL)
    status, out, _ = run(
        "run",
        "mixture",
        "--of",
        tmp_path / "gpt",
        tmp_path / "ngram",
        "--data",
        text_file,
        "--out",
        tmp_path / "both",
        "--steps",
        4,
        *SMALL,
    )
    assert status == 0
    assert f"The model is in {tmp_path / 'both'}." in out
    facts = facts_of(tmp_path / "both")
    assert facts["command"].startswith("python -m train run mixture --of gpt ngram --data chain.txt ")
    assert facts["rehearsal"]["budget"] == {"steps": 4}
    assert facts["rehearsal"]["recipes"]["gpt"]["width"] == 32
    for name in ("ngram", "both"):
        status, said, _ = run("evaluate", tmp_path / name, "--data", text_file)
        assert float(said.split()[0]) == pytest.approx(facts_of(tmp_path / name)["held_out"]["nats_per_token"], abs=1e-4)


def test_a_vae_is_measured_again_by_its_bound(run, tmp_path):
    (tmp_path / "items.txt").write_bytes(CONTENT)
    words = [
        "--data",
        tmp_path / "items.txt",
        "--lines",
        "--steps",
        150,
        "--width",
        48,
        "--free-bits",
        0.25,
        "--out",
        tmp_path / "vae",
    ]
    status, _, err = run("run", "vae", *words)
    assert status == 0, err
    facts = facts_of(tmp_path / "vae")
    assert (facts["recipe"]["width"], facts["recipe"]["free_bits"]) == (48, 0.25)
    assert (
        facts["command"] == "python -m train run vae --data items.txt --lines --steps 150 --width 48 --free-bits 0.25 --out vae"
    )
    _, said, _ = run("evaluate", tmp_path / "vae", "--data", tmp_path / "items.txt")
    assert float(said.split()[0]) == pytest.approx(facts["held_out"]["nats_per_token"], abs=1e-3)


def test_a_bigram_with_a_budget_is_learned(run, text_file, tmp_path):
    assert run("run", "bigram", "--data", text_file, "--out", tmp_path / "out", "--steps", 3)[0] == 0
    facts = facts_of(tmp_path / "out")
    assert facts["method"] == "gradient descent"
    assert facts["run_steps"] == 3


def test_a_gpt_is_trained_in_the_sizes_that_were_asked_for(run, text_file, tmp_path):
    out = tmp_path / "out"
    status, said, err = run("run", "gpt", "--data", text_file, "--out", out, "--steps", 3, "--dropout", 0.1, "--seed", 9, *SMALL)
    assert status == 0
    assert f"The model is in {out}." in said
    facts = facts_of(out)
    assert {name: facts["recipe"][name] for name in ("layers", "width", "context", "dropout")} == {
        "layers": 1,
        "width": 32,
        "context": 16,
        "dropout": 0.1,
    }
    assert (facts["seed"], facts["run_steps"], facts["finished"]) == (9, 3, True)
    assert facts["command"].startswith("python -m train run gpt --data ")
    assert (
        f"step 3: train {facts['train_loss']:.4f}, held out {facts['evaluate']['nats_per_token']:.4f} nats a token" in said + err
    )
    assert "the best so far" in said + err
    line = re.search(r"^\s*([\d,]+) tokens in .*?, ([\d,]+) tokens/s: (.*)$", said + err, re.MULTILINE)
    assert line[1] == f"{facts['tokens']:,}"
    shares = dict(part.removesuffix(" %").rsplit(" ", 1) for part in line[3].split(", "))
    assert shares.keys() == facts["spent"].keys()
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=0.5)


def test_pieces_of_words_are_trained_and_measured(run, text_file, tmp_path, data):
    out = tmp_path / "out"
    options = ["--tokenizer", "bpe:280", "--steps", 3, *SMALL]
    assert run("run", "gpt", "--data", text_file, "--out", out, *options)[0] == 0
    facts, lm = facts_of(out), load(out)
    assert (facts["tokenizer"], facts["vocabulary"], len(lm.tokenizer)) == ("bpe:280", 280, 280)
    evaluate, (train, last) = facts["held_out"], data.parts
    assert lm.tokenizer.files() == Tokenizer.bpe(train, 280).files()
    ids = lm.tokenizer.encode(last).ids
    assert evaluate["tokens"] == len(ids) - 1 < 0.7 * len(last)
    target_text = len(last) - len(lm.tokenizer.decode(ids[:1]))
    bits = evaluate["nats_per_token"] * evaluate["tokens"] / math.log(2)
    assert evaluate["bits_per_character"] == evaluate["bits_per_byte"] == pytest.approx(bits / target_text)
    status, said, _ = run("evaluate", out, "--data", text_file)
    assert (status, said.split()[4]) == (0, f"{evaluate['bits_per_character']:.4f}")
    characters = tmp_path / "characters"
    run("run", "bigram", "--data", text_file, "--out", characters)
    assert facts["baselines"] == facts_of(characters)["baselines"]  # which are of characters, whatever the tokens
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "which writes one of 280 tokens (bpe:280) at a time" in card
    assert f"{evaluate['tokens']:,} tokens | nats a character | bits a character |" in card
    assert f"| {evaluate['bits_per_character'] * math.log(2):.4f} | {evaluate['bits_per_character']:.4f} |" in card
    assert "character-level" not in card
    assert "one character" not in card
    assert "left out of a prompt" not in card
    assert "nats a token" in (out / "loss_curve.svg").read_text()


def test_bits_for_a_byte_are_fewer_where_characters_have_more(run, tmp_path, data):
    path = tmp_path / "odd.txt"
    path.write_text(data.text.replace("a", "日"), encoding="utf-8")
    results = []
    for tokenizer in ("char", "bpe:280"):
        out = tmp_path / tokenizer
        assert run("run", "gpt", "--data", path, "--out", out, "--tokenizer", tokenizer, "--steps", 2, *SMALL)[0] == 0
        results.append(facts_of(out)["held_out"])
        said = run("evaluate", out, "--data", path)[1]
        assert float(said.split()[8]) == pytest.approx(results[-1]["bits_per_byte"], abs=1e-4)
    text = path.read_text(encoding="utf-8")
    bytes_each = len(text[3601:].encode()) / len(text[3601:])
    for result in results:
        assert result["bits_per_character"] / result["bits_per_byte"] == pytest.approx(bytes_each, rel=0.01)
        assert bytes_each > 1.2


def test_counting_and_mixing_work_with_pieces_of_words(run, text_file, tmp_path):
    for kind in ("bigram", "ngram"):
        assert run("run", kind, "--data", text_file, "--out", tmp_path / kind, "--tokenizer", "bpe:270")[0] == 0
        assert len(load(tmp_path / kind).tokenizer) == 270
    card = (tmp_path / "bigram" / "README.md").read_text(encoding="utf-8")
    assert "A table of which token follows which" in card
    assert "| counting pairs of characters (bigram) |" in card
    of = ["--of", tmp_path / "bigram", tmp_path / "ngram"]
    assert run("run", "mixture", *of, "--data", text_file, "--out", tmp_path / "both")[0] == 0
    facts = facts_of(tmp_path / "both")
    assert (facts["tokenizer"], facts["vocabulary"]) == ("bpe:270", 270)
    assert facts["held_out"]["bits_per_character"] < facts_of(tmp_path / "bigram")["held_out"]["bits_per_character"]
    run("run", "ngram", "--data", text_file, "--out", tmp_path / "characters")
    of = ["--of", tmp_path / "bigram", tmp_path / "characters"]
    said = refused(run("run", "mixture", *of, "--data", text_file, "--out", tmp_path / "no"))
    assert said == f"{of[1]} and {of[2]} do not share a tokenizer; mix two models that do"


def test_a_window_of_one_can_be_trained(run, text_file, tmp_path):
    options = ["--layers", "1", "--width", "32", "--context", "1", "--steps", "3", "--device", "cpu"]
    assert run("run", "gpt", "--data", text_file, "--out", tmp_path / "out", *options)[0] == 0
    assert load(tmp_path / "out").window == 1


def test_minutes_pick_the_size(run, text_file, tmp_path):
    out = tmp_path / "out"
    assert run("run", "gpt", "--data", text_file, "--out", out, "--minutes", 0.001, "--device", "cpu")[0] == 0
    facts = facts_of(out)
    assert facts["budget"] == {"minutes": 0.001}
    assert (facts["recipe"]["layers"], facts["recipe"]["width"]) == (2, 64)


def test_evaluate_gives_the_loss_of_the_training(run, text_file, tmp_path):
    for kind, options in (("bigram", []), ("gpt", ["--steps", 3, *SMALL])):
        out = tmp_path / kind
        run("run", kind, "--data", text_file, "--out", out, *options)
        evaluate = facts_of(out)["held_out"]
        status, said, err = run("evaluate", out, "--data", text_file)
        assert (status, err) == (0, "")
        told = re.fullmatch(r"(.*) nats a token, (.*) bits a character, (.*) bits a byte \((.*) tokens\)\n", said)
        nats, bits, bits_per_byte, tokens = told.groups()
        assert float(nats) == pytest.approx(evaluate["nats_per_token"], abs=1e-4)
        assert float(bits) == pytest.approx(evaluate["bits_per_character"], abs=1e-4)
        assert bits_per_byte == bits  # the text is ASCII
        assert int(tokens.replace(",", "")) == evaluate["tokens"]


def test_evaluate_tells_what_the_model_never_saw(run, text_file, tmp_path, data):
    run("run", "bigram", "--data", text_file, "--out", tmp_path / "out")
    (tmp_path / "odd.txt").write_text(data.text + "~=" * 20)
    status, _, err = run("evaluate", tmp_path / "out", "--data", tmp_path / "odd.txt")
    assert (status, err) == (0, "left out, because this model never saw them: '~='\n")


def test_evaluate_refuses_a_text_with_nothing_to_score(run, text_file, tmp_path):
    run("run", "bigram", "--data", text_file, "--out", tmp_path / "out")
    (tmp_path / "few.txt").write_text("ab")
    said = refused(run("evaluate", tmp_path / "out", "--data", tmp_path / "few.txt"))
    assert said == f"the last tenth of {tmp_path / 'few.txt'} has too few characters to score"


def test_evaluate_refuses_damaged_weights(run, text_file, tmp_path):
    run("run", "bigram", "--data", text_file, "--out", tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").write_bytes(b"")
    assert "model.safetensors is damaged" in refused(run("evaluate", tmp_path / "out", "--data", text_file))


@pytest.mark.parametrize("kind", ["bigram", "ngram", "gpt"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no text could be read from '{}' (No such file or directory); give a file, or one of: shakespeare, names"),
        (b"caf\xe9", "{} is not UTF-8 text (byte 3 is no part of it); convert it first"),
        (b"", "chain has 0 characters; a run with windows of"),
        (b"too short", "chain has 9 characters; a run with windows of"),
    ],
)
def test_a_text_that_cannot_be_used(run, text_file, tmp_path, kind, content, said):
    text_file.unlink()
    if content is not None:
        text_file.write_bytes(content)
    assert refused(run("run", kind, "--data", text_file, "--out", tmp_path / "out")).startswith(said.format(text_file))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("gpt --steps 0", "a budget of 0 is none; it must be a number above 0"),
        ("gpt --minutes -1", "a budget of -1.0 is none"),
        ("gpt --minutes nan", "a budget of nan is none"),
        ("gpt --minutes inf", "a budget of inf is none"),
        ("gpt --steps 1 --seed -1", "seed is -1; it must be a whole number from 0 to 4294967295"),
        ("bigram --seed 4294967296", "seed is 4294967296; it must be"),
        ("gpt --steps 1 --width 33", "a width of 33 does not divide into heads of 32; take a multiple"),
        ("gpt --steps 1 --width 0", "width is 0; it must be 1 or more"),
        ("gpt --steps 1 --layers 0", "layers is 0; it must be 1 or more"),
        ("gpt --steps 1 --layers 1000000000", "num_hidden_layers is 1000000000; it must be above 0 and at most 1,000"),
        ("gpt --steps 1 --context 0", "context is 0; it must be 1 or more"),
        ("gpt --steps 1 --context -5", "context is -5; it must be 1 or more"),
        ("gpt --steps 1 --context 9999", "chain has 4000 characters; a run with windows of 9999 needs 11112 or more"),
        ("gpt --steps 1 --dropout 1.5", "dropout is 1.5; it must be from 0 to below 1"),
        ("gpt --steps 1 --dropout nan", "dropout is nan; it must be from 0 to below 1"),
        ("vae --steps 1 --free-bits -1", "free_bits is -1.0; it must be 0 or more"),
        ("gpt --steps 1 --free-bits 1", "a gpt has no free_bits; leave it out"),
        ("bigram --layers 2 --width 64", "a bigram has no layers, width; leave it out"),
        ("ngram --width 64 --minutes 3 --resume", "counting knows no width, minutes, resume; leave it out"),
        ("ngram --of a b", "--of is for a mixture; leave it out"),
        ("mixture --steps 3", "a mixture needs two models; name them with --of"),
        ("mixture --of zebra gpt-shakespeare", "there is no model 'zebra'"),
        ("mixture --of bigram-shakespeare gpt-shakespeare", "bigram-shakespeare did not learn from this text"),
        ("mixture --of a b --tokenizer bpe:300", "a mixture has the tokenizer of its two models; leave --tokenizer out"),
        ("gpt --steps 1 --tokenizer bpe:5", "bpe:5 is no vocabulary; give bpe:N with N from 257 to 65,536, as in bpe:512"),
        ("gpt --steps 1 --tokenizer zebra", "no tokenizer could be read from 'zebra' (No such file or directory); give"),
        ("gpt --steps 1 --tokenizer bpe:60000", "chain is too short for bpe:60000 (the text gives"),
        ("gpt --steps 1 --tokenizer gpt2", "HF_HUB_OFFLINE is set, so the Hub was not asked for openai-community/gpt2"),
        ("gpt --steps 1 --resume", "there is nothing to resume in"),
    ],
)
def test_a_wrong_option_ends_with_one_sentence(run, text_file, tmp_path, options, said):
    kind, *rest = options.split()
    assert refused(run("run", kind, "--data", text_file, "--out", tmp_path / "out", *rest)).startswith(said)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_refused(run, text_file, tmp_path):
    said = refused(run("run", "gpt", "--data", text_file, "--out", tmp_path / "out", "--device", "cuda"))
    assert said == "there is no CUDA device here; leave --device out to train on the CPU"


@pytest.mark.parametrize(
    ("options", "compiles"), [("", True), ("--no-compile", False), ("--device cpu", False), ("--device cpu --compile", True)]
)
def test_a_gpu_is_used_and_compiled_for_where_there_is_one(run, text_file, tmp_path, monkeypatch, options, compiles):
    def train(*_, device, compile, **__):
        raise ValueError(f"{device} {compile}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("train.__main__.learn", train)
    said = refused(run("run", "gpt", "--data", text_file, "--out", tmp_path / "out", *options.split()))
    assert said == f"{'cpu' if 'cpu' in options else 'cuda'} {compiles}"


@pytest.mark.parametrize(
    "options",
    ["run", "run rnn --data x --out y", "run gpt --out y", "run gpt --data x --out y --steps 1 --minutes 1", "frob", ""],
)
def test_a_usage_error_ends_with_two(run, options):
    status, _, err = run(*options.split())
    assert status == 2
    assert "usage: python -m train" in err


@pytest.mark.parametrize("kind", ["bigram", "gpt"])
def test_a_folder_in_use_is_refused_and_left_alone(run, text_file, tmp_path, kind):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    said = refused(run("run", kind, "--data", text_file, "--out", out, *(SMALL if kind == "gpt" else [])))
    assert said == f"{out} is not empty; name another folder, so that nothing is lost"
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("notes.txt", "mine")]


def test_a_folder_that_cannot_be_made_is_told(run, text_file, tmp_path):
    (tmp_path / "file").write_text("")
    for kind in ("bigram", "gpt"):
        status, _, err = run("run", kind, "--data", text_file, "--out", tmp_path / "file" / "out")
        assert status.startswith("python -m train: [Errno 20] Not a directory: ")
        assert str(tmp_path / "file" / "out") in status
        assert "Traceback" not in err


def test_help_names_every_source_and_default(run):
    status, out, _ = run("run", "--help")
    assert status == 0
    assert all(name in out for name in SOURCES)
    assert str(parser().parse_args(["run", "gpt", "--data", "x", "--out", "y"]).seed) in out


def test_ctrl_c_while_the_text_is_fetched_ends_with_130(run, text_file, tmp_path, monkeypatch):
    run("run", "bigram", "--data", text_file, "--out", tmp_path / "bigram")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("train.data.read", interrupted)
    assert run("run", "gpt", "--data", "shakespeare", "--out", tmp_path / "out")[0] == 130
    assert run("evaluate", tmp_path / "bigram", "--data", "shakespeare")[0] == 130
