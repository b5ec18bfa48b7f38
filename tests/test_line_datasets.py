"""Data sets of lines: read, trained on, and generated line by line."""

import json
import math

import pytest
import torch

from gpt import LanguageModel, SamplingParams, Tokenizer, load
from train.configs import GPTTrainConfig, LSTMTrainConfig
from train.counting import fit_bigram
from train.data import MAX_LINE_CHARS, TextDataset, load_dataset
from train.runs import fit_counts, train
from train.tokenizers import tokenize
from train.trainer import Budget


@pytest.fixture(scope="module")
def content(line_data):
    """The file of `line_data`, in another order."""
    return "".join(f"{line}\n" for line in sorted(line_data.documents)).encode()


# Reading


def test_lines_are_shuffled_and_split_whole(line_data, content):
    train_part, held_out = line_data.split()
    assert (len(train_part.documents), len(held_out.documents)) == (54, 6)
    assert train_part.documents + held_out.documents == line_data.documents
    lines = content.decode().splitlines()
    again = TextDataset.from_lines("sorted", content)
    assert sorted(again.documents) == lines
    assert list(again.documents) != lines
    assert again == TextDataset.from_lines("sorted", content)
    assert line_data.text == "".join(f"{line}\n" for line in line_data.documents)
    assert line_data.prompt == ""


def test_skipped_lines_are_counted(content):
    long = b"m" * MAX_LINE_CHARS
    odd = b"\n  \n" + long + b"\n" + long + b"m\r\ncaf\xe9\nwindows\r\n" + "né".encode()
    data = TextDataset.from_lines("odd", content + odd)
    assert data.skipped == {"empty": 2, f"longer than {MAX_LINE_CHARS} characters": 1, "not UTF-8": 1}
    assert {long.decode(), "windows", "né"} <= set(data.documents)
    assert len(data.documents) == 63


@pytest.mark.parametrize("content", [b"", b"\n\n\n", b"a\nb\n", b"\xff\n" * 50])
def test_too_few_lines_are_refused(content):
    with pytest.raises(ValueError, match=r"few has \d+ lines to learn from; a run needs 20 or more"):
        TextDataset.from_lines("few", content)


def test_file_is_read_as_lines_if_asked(tmp_path, content):
    (tmp_path / "items.txt").write_bytes(content)
    assert load_dataset(str(tmp_path / "items.txt"), is_lines=True) == TextDataset.from_lines("items", content)
    assert load_dataset(str(tmp_path / "items.txt")).text == content.decode()


def test_each_line_is_encoded_between_end_tokens(line_data):
    for name in ("char", "bpe:260"):
        tokens = tokenize(line_data, name)
        for part, documents in zip(line_data.split(), (tokens.train, tokens.held_out), strict=True):
            assert all(d[0] == d[-1] == tokens.eos_token_id and tokens.eos_token_id not in d[1:-1] for d in documents)
            assert tuple(tokens.tokenizer.decode(d.tolist()[1:-1]) for d in documents) == part.documents
        assert tokens.held_out_text == "".join(f"{line}\n" for line in line_data.split()[1].documents)


# Training


def test_counting_knows_what_starts_and_ends_a_line(line_data, tmp_path):
    list(fit_counts(line_data, tmp_path / "out", seed=1, command="a test", kind="bigram", fit=fit_bigram))
    lm = load(tmp_path / "out")
    tokens = tokenize(line_data)
    assert lm.eos_token_id == tokens.eos_token_id
    first = lm.model.logits[lm.eos_token_id].exp()
    assert first[[lm.tokenizer.vocab[c] for c in "abcde"]].sum() > 0.95
    lines = lm.generate("", SamplingParams(seed=1, max_new_tokens=200)).text.split("\n")
    assert {line[:1] for line in lines if line} <= set("abcde")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "config", "tokenizer"),
    [
        ("gpt", GPTTrainConfig(1, 32, context=6, batch_tokens=192), "char"),
        ("lstm", LSTMTrainConfig(1, 32, context=6, batch_tokens=192), "char"),
        ("gpt", GPTTrainConfig(1, 32, context=6, batch_tokens=192), "bpe:260"),
    ],
)
def test_run_learns_lines(line_data, tmp_path, kind, config, tokenizer):
    out = tmp_path / "out"
    list(train(kind, config, line_data, out, Budget(steps=150), seed=1, command="a test", tokenizer=tokenizer))
    facts = json.loads((out / "training.json").read_text())
    assert facts["data"]["lines"] == 60
    assert facts["data"]["split"].startswith("shuffled")
    documents = tokenize(line_data, tokenizer).held_out
    assert facts["held_out"]["tokens"] == sum(len(document) - 1 for document in documents)
    assert facts["held_out"]["bits_per_character"] * math.log(2) < 0.75 * facts["baselines"]["uniform"]
    lm = load(out)
    lines = lm.generate("", SamplingParams(seed=2, max_new_tokens=300)).text.split("\n")[:-1]
    assert sum(line in line_data.documents for line in lines) > 0.7 * len(lines) > 20


@pytest.mark.slow
def test_stopped_run_on_lines_continues_exactly(line_data, tmp_path):
    config, budget = LSTMTrainConfig(1, 16, context=6, batch_tokens=96), Budget(steps=30)

    def run(out, resume=False):
        return train("lstm", config, line_data, out, budget, seed=1, command="a test", resume=resume)

    list(run(tmp_path / "whole"))
    events = run(tmp_path / "out")
    for _ in range(11):
        next(events)
    events.close()
    list(run(tmp_path / "out", resume=True))
    weights = [load(tmp_path / name).model.state_dict() for name in ("whole", "out")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# Generating and scoring


@pytest.fixture
def lm(line_model):
    """A model with random weights and end tokens."""
    return LanguageModel(line_model, Tokenizer.from_text("\nabcdefgh"))


def test_each_line_starts_afresh(lm):
    generation = lm.generate("", SamplingParams(seed=5, max_new_tokens=120, temperature=1.5))
    assert generation.text.count("\n") > 3
    start = 0
    for line in generation.text.split("\n")[:-1]:
        ids = torch.tensor([[0, *lm.tokenizer.encode(line).ids, 0]])
        logprobs = lm.model(ids[:, :-1])[0][0].log_softmax(dim=-1).gather(-1, ids[0, 1:, None])[:, 0]
        assert logprobs.tolist() == pytest.approx(generation.logprobs[start : start + len(line) + 1], abs=1e-4)
        start += len(line) + 1


def test_prompt_continues_its_last_line(lm):
    params = SamplingParams(seed=3, max_new_tokens=40)
    assert lm.generate("ab\ncd", params).text == lm.generate("cd", params).text == lm.generate("\ncd", params).text
    assert lm.generate("ab\n", params).text == lm.generate("", params).text


def test_lines_are_scored_separately(lm):
    assert lm.score("ab\ncde\n").nll == pytest.approx([*lm.score("ab\n").nll, *lm.score("cde\n").nll], abs=1e-5)


def test_lines_in_a_batch_do_not_depend_on_each_other(lm):
    params = [SamplingParams(seed=seed, max_new_tokens=50, temperature=1.5) for seed in range(3)]
    columns = list(zip(*lm.stream_batch(["", "a", "b\nc"], params), strict=True))
    for prompt, p, steps in zip(("", "a", "b\nc"), params, columns, strict=True):
        assert "".join(step.text for step in steps) == lm.generate(prompt, p).text


def test_engines_generate_the_same_lines(lm):
    params = SamplingParams(seed=8, max_new_tokens=80)
    text = lm.generate("", params).text
    lm.engine = "PyTorch"
    assert lm.generate("", params).text == text


def test_command_line_reports_skipped_lines(command, content, tmp_path, keeps_sigint):
    from train import __main__ as program

    (tmp_path / "items.txt").write_bytes(content + b"\n\xff\n")
    run = command("python -m train", program.main)
    status, _, err = run("run", "bigram", "--data", tmp_path / "items.txt", "--lines", "--out", tmp_path / "out")
    assert status == 0
    assert "1 empty" in err
    assert "1 not UTF-8" in err
    status, output, _ = run("evaluate", tmp_path / "out", "--data", tmp_path / "items.txt")
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert facts["data"]["skipped"] == {"empty": 1, f"longer than {MAX_LINE_CHARS} characters": 0, "not UTF-8": 1}
    assert float(output.split()[0]) == pytest.approx(facts["held_out"]["nats_per_token"], abs=1e-4)
