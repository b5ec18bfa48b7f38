"""Lines: each an item of its own, padded to a batch, where what is padded never counts."""

import json

import pytest
import torch
import torch.nn.functional as F

from gpt import LanguageModel, SamplingParams, Tokenizer, load
from train.configs import GPTTrainConfig, LSTMTrainConfig
from train.data import LONGEST_LINE, LineBatches, TextDataset, lines_of, padded, read
from train.evaluate import evaluate, token_nll
from train.runs import TokenizedDataset, fit_bigram, fit_counts, train
from train.trainer import Budget

ITEMS = [f"{a}{b * n}" for a in "abcde" for b in "xyz" for n in range(1, 5)]  # 60 of 2 to 5 letters
CONTENT = "".join(f"{item}\n" for item in ITEMS).encode()
DATA = TextDataset.from_lines("items", CONTENT)
END = Tokenizer.from_text(DATA.text).start_id


# Reading them


def test_lines_are_shuffled_and_split_whole():
    train, held = (part[1:-1].split("\n") for part in DATA.parts)
    assert sorted(train + held) == sorted(ITEMS)
    assert (len(train), len(held)) == (54, 6)
    assert train + held != ITEMS
    assert TextDataset.from_lines("again", CONTENT) == TextDataset.from_lines("again", CONTENT)
    assert all(part.startswith("\n") and part.endswith("\n") for part in (DATA.text, *DATA.parts))


def test_lines_that_are_no_items_are_counted():
    long = b"m" * LONGEST_LINE
    data = TextDataset.from_lines("odd", CONTENT + b"\n  \n" + long + b"\n" + long + b"m\r\ncaf\xe9\nwindows\r\n" + "né".encode())
    assert data.left_out == {"empty": 2, f"longer than {LONGEST_LINE} characters": 1, "not UTF-8": 1}
    kept = set(data.text.split("\n"))
    assert {long.decode(), "windows", "né"} <= kept
    assert len(data.text[1:-1].split("\n")) == len(ITEMS) + 3


@pytest.mark.parametrize("content", [b"", b"\n\n\n", b"a\nb\n", b"\xff\n" * 50])
def test_too_few_lines_are_a_sentence(content):
    with pytest.raises(ValueError, match=r"few has \d+ lines to learn from; a run needs 20 or more"):
        TextDataset.from_lines("few", content)


def test_a_file_is_read_as_lines_if_asked_to(tmp_path):
    (tmp_path / "items.txt").write_bytes(CONTENT)
    assert read(str(tmp_path / "items.txt"), lines=True) == DATA
    assert read(str(tmp_path / "items.txt")).text == CONTENT.decode()


# Padding


def test_lines_are_padded_and_the_padding_is_no_target():
    ids = torch.tensor([0, 5, 6, 0, 7, 0, 1, 2, 3, 0])
    lines = lines_of(ids, 0)
    assert [line.tolist() for line in lines] == [[0, 5, 6, 0], [0, 7, 0], [0, 1, 2, 3, 0]]
    inputs, targets = padded(lines)
    assert targets.tolist() == [[5, 6, 0, -1], [7, 0, -1, -1], [1, 2, 3, 0]]
    assert inputs[0].tolist()[:3] == [0, 5, 6]
    assert inputs[2].tolist() == [0, 1, 2, 3]
    assert (inputs >= 0).all()
    longer = padded(lines, 6)
    assert longer[1].tolist() == [[*row, -1, -1] for row in targets.tolist()]
    assert torch.equal(longer[0][:, :4], inputs)


@pytest.fixture(params=["gpt", "lstm"])
def model(request):
    config = GPTTrainConfig(1, 32, context=8) if request.param == "gpt" else LSTMTrainConfig(2, 24)
    torch.manual_seed(0)
    made = config.build(9, 0).eval()
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim == 2:
                p.normal_(std=0.3)
    return made


def test_each_row_of_a_batch_of_mixed_lengths_has_the_loss_that_it_has_alone(model):
    lines = [torch.tensor([0, *range(1, n + 1), 0]) for n in (1, 7, 3, 5)]
    inputs, targets = padded(lines)
    logits, _ = model(inputs)
    together = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-1, reduction="none").sum(dim=1)
    for line, loss in zip(lines, together, strict=True):
        alone = F.cross_entropy(model(line[None, :-1])[0][0], line[1:], reduction="sum")
        torch.testing.assert_close(loss, alone, atol=1e-5, rtol=0)


def test_what_stands_in_the_padding_changes_nothing(model):
    inputs, targets = padded([torch.tensor([0, 1, 2, 0]), torch.tensor([0, 3, 4, 5, 6, 0])])
    other = torch.where(targets < 0, 8, inputs)
    assert (other != inputs).any()
    counts = targets >= 0
    torch.testing.assert_close(model(other)[0][counts], model(inputs)[0][counts], atol=1e-6, rtol=0)


def test_a_held_out_loss_counts_each_token_and_end_once_and_no_padding(model):
    lines = [torch.tensor([0, *range(1, n + 1), 0]) for n in (1, 7, 3, 5)]
    ids = torch.cat([lines[0][:1], *(line[1:] for line in lines)])
    alone = torch.cat([F.cross_entropy(model(x[None, :-1])[0][0], x[1:], reduction="none") for x in lines])
    torch.testing.assert_close(token_nll(model, ids, 3), alone.detach(), atol=1e-5, rtol=0)
    assert evaluate(model, ids, 3).tokens == 1 + 7 + 3 + 5 + 4


def test_batches_of_lines_repeat_with_their_generator_and_hold_whole_lines():
    texts = TokenizedDataset.of(DATA, 1)
    lines = lines_of(texts.train, END)
    one, other = LineBatches(lines, 8), LineBatches(lines, 8)
    other.next(torch.Generator().manual_seed(9))  # as a run that has come further
    a, b = (batches.next(torch.Generator().manual_seed(4)) for batches in (one, other))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert a[0].shape == (8, max(map(len, lines)) - 1)
    known = {tuple(line[1:].tolist()) for line in lines}
    assert {tuple(t for t in row.tolist() if t >= 0) for row in a[1]} <= known


# Learning and writing them


def test_counting_knows_what_starts_and_ends_a_line(tmp_path):
    list(fit_counts(DATA, tmp_path / "out", 1, "a test"))
    lm = load(tmp_path / "out")
    assert lm.end_id == END
    texts = TokenizedDataset.of(DATA, 1)
    counted, _ = fit_bigram(texts)
    firsts = counted.logits[END].exp()
    assert firsts[[lm.tokenizer.vocab[c] for c in "abcde"]].sum() > 0.95
    lines = lm.generate("", SamplingParams(seed=1, max_new_tokens=200)).text.split("\n")
    assert {line[:1] for line in lines if line} <= set("abcde")


@pytest.mark.parametrize(
    "recipe", [GPTTrainConfig(1, 32, context=6, batch_tokens=192), LSTMTrainConfig(1, 32, context=6, batch_tokens=192)]
)
def test_a_run_on_lines_learns_them(config, tmp_path):
    kind = "gpt" if isinstance(config, GPTTrainConfig) else "lstm"
    out = tmp_path / "out"
    for _ in train(kind, config, DATA, out, Budget(steps=150), 1, "a test"):
        pass
    facts = json.loads((out / "training.json").read_text())
    assert facts["data"]["lines"] == 60
    assert facts["data"]["split"].startswith("shuffled")
    assert facts["held_out"]["tokens"] == sum(len(line) + 1 for line in DATA.parts[1][1:-1].split("\n"))
    assert facts["held_out"]["nats_per_token"] < 0.6 * facts["baselines"]["uniform"]
    lm = load(out)
    written = lm.generate("", SamplingParams(seed=2, max_new_tokens=300)).text.split("\n")[:-1]
    assert sum(line in ITEMS for line in written) > 0.7 * len(written) > 20


def test_a_run_on_lines_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    config, budget = LSTMTrainConfig(1, 16, context=6, batch_tokens=96), Budget(steps=30)

    def run(out, resume=False):
        return train("lstm", config, DATA, out, budget, 1, "a test", resume)

    list(run(tmp_path / "whole"))
    events = run(tmp_path / "out")
    for _ in range(11):
        next(events)
    events.close()
    list(run(tmp_path / "out", resume=True))
    weights = [load(tmp_path / name).model.state_dict() for name in ("whole", "out")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.fixture
def lm(model):
    return LanguageModel(model, Tokenizer.from_text("\nabcdefgh"))


def test_each_line_is_written_as_if_it_were_the_first(lm):
    """The tokens of a line follow from the model reading that line alone."""
    text = lm.generate("", SamplingParams(seed=5, max_new_tokens=120, temperature=1.5))
    assert text.text.fit_counts("\n") > 3
    at = 0
    for line in text.text.split("\n")[:-1]:
        ids = torch.tensor([[0, *lm.tokenizer.encode(line).ids, 0]])
        logprobs = lm.model(ids[:, :-1])[0][0].log_softmax(dim=-1).gather(-1, ids[0, 1:, None])[:, 0]
        assert logprobs.tolist() == pytest.approx(text.logprobs[at : at + len(line) + 1], abs=1e-4)
        at += len(line) + 1


def test_a_prompt_goes_on_with_its_last_line(lm):
    params = SamplingParams(seed=3, max_new_tokens=40)
    assert lm.generate("ab\ncd", params).text == lm.generate("cd", params).text == lm.generate("\ncd", params).text
    assert lm.generate("ab\n", params).text == lm.generate("", params).text


def test_lines_are_scored_apart(lm):
    whole = lm.score("ab\ncde\n")
    assert whole.nats == pytest.approx([*lm.score("ab\n").nats, *lm.score("cde\n").nats], abs=1e-5)


def test_lines_in_a_batch_are_what_they_are_alone(lm):
    params = [SamplingParams(seed=seed, max_new_tokens=50, temperature=1.5) for seed in range(3)]
    rows = list(zip(*lm.stream_batch(["", "a", "b\nc"], params), strict=True))
    for prompt, each, row in zip(("", "a", "b\nc"), params, rows, strict=True):
        assert "".join(step.text for step in row) == lm.generate(prompt, each).text


def test_the_engines_write_the_same_lines(lm):
    params = SamplingParams(seed=8, max_new_tokens=80)
    text = lm.generate("", params).text
    lm.engine = "PyTorch"
    assert lm.generate("", params).text == text


def test_the_command_line_reads_lines_and_says_what_it_left_out(command, tmp_path, keeps_sigint):
    from train import __main__ as program

    (tmp_path / "items.txt").write_bytes(CONTENT + b"\n\xff\n")
    run = command("python -m train", program.main)
    status, _, err = run("run", "bigram", "--data", tmp_path / "items.txt", "--lines", "--out", tmp_path / "out")
    assert status == 0
    assert "Lines of items that were left out: 1 empty, 1 not UTF-8." in err
    status, said, _ = run("evaluate", tmp_path / "out", "--data", tmp_path / "items.txt")
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert facts["data"]["left_out"] == {"empty": 1, f"longer than {LONGEST_LINE} characters": 0, "not UTF-8": 1}
    assert float(said.split()[0]) == pytest.approx(facts["held_out"]["nats_per_token"], abs=1e-4)
