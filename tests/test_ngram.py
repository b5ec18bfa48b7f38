"""Kneser-Ney against a slow version with dictionaries, and against a text whose probabilities are worked out by hand."""

import json
import random
from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest
import torch

from gpt import LanguageModel, NGram, NGramConfig, SamplingParams, Tokenizer, load
from gpt.checkpoint import CheckpointError, save
from gpt.models.ngram import FALLBACK, LONGEST, count, discounts, first_code


def made(text, vocab_size, order, whole=LONGEST, end=None):
    return NGram.smoothed(count(torch.tensor(text, dtype=torch.long), vocab_size, order, end), vocab_size, whole, end)


def slow(text, vocab_size, order, whole=LONGEST, end=None):
    """A function (context, token) -> probability, as the papers define it, with shares rounded down to float16."""
    text, tables = tuple(text), {}

    def grams(n):
        """All sequences of n tokens in which no line ends but at the last."""
        found = [text[i : i + n] for i in range(len(text) - n + 1)]
        return [gram for gram in found if end is None or end not in gram[1:-1]]

    for n in range(1, order + 1):
        counts = Counter()
        if n == order:
            counts.update(grams(n))
        else:
            counts.update(gram[1:] for gram in set(grams(n + 1)))
            counts.update(gram for gram in grams(n) if n > 1 and gram[0] == end)
        of_counts = Counter(counts.values())
        n1, n2, n3, n4 = (of_counts[i] for i in (1, 2, 3, 4))
        taken = FALLBACK
        if n1 and n2 and n3 and n4:
            y = n1 / (n1 + 2 * n2)
            taken = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
            taken = taken if all(0 < d < i for i, d in enumerate(taken, 1)) else FALLBACK
        total = Counter()
        for gram, times in counts.items():
            total[gram[:-1]] += times
        tables[n] = defaultdict(dict)
        for gram, times in counts.items():
            if times > 1 or n <= whole:
                share = (times - taken[min(times, 3) - 1]) / total[gram[:-1]]
                half = np.float16(share)
                tables[n][gram[:-1]][gram[-1]] = float(half if float(half) <= share else np.nextafter(half, np.float16(0)))

    def probability(context, token, n=order):
        if n == 0:
            return 1 / vocab_size
        if len(context) < n - 1:
            return probability(context, token, n - 1)
        shares = tables[n].get(tuple(context[len(context) - n + 1 :]), {})
        return shares.get(token, 0.0) + (1 - sum(shares.values())) * probability(context, token, n - 1)

    return probability


def probs(model, context):
    """(V,) after a context."""
    return model(torch.tensor([context]))[0][0, -1].exp()


TEXTS = {
    "chain": lambda length: [(i * i + i // 3 + random.Random(i).randrange(2)) % 4 for i in range(length)],
    "random": lambda length: random.Random(5).choices(range(4), [8, 4, 2, 1], k=length),
    "one token": lambda length: [2] * length,
}


@pytest.mark.parametrize("lines", [1, 9, 300])
@pytest.mark.parametrize(("order", "whole"), [(1, 8), (2, 1), (3, 8), (5, 3)])
def test_lines_are_counted_apart(lines, order, whole):
    """After each context that is the beginning of a line, or a part of one."""
    draws = random.Random(lines)
    text = [0]
    for _ in range(lines):
        text += [*draws.choices((1, 2, 3), (5, 2, 1), k=draws.randrange(1, 6)), 0]
    model, expected = made(text, 4, order, whole, 0), slow(text, 4, order, whole, 0)
    for n in range(5):
        for context in product((1, 2, 3), repeat=n):
            for start in ((0,), ()) if n else ((0,),):
                got = probs(model, (*start, *context))
                theirs = torch.tensor([expected((*start, *context), token) for token in range(4)])
                torch.testing.assert_close(got, theirs, atol=1e-6, rtol=1e-5)


def test_what_starts_lines_counts_how_often_it_does():
    """Of 4 lines 3 begin with 1: not how many different tokens ended the lines before."""
    model = made([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 2, 0], 3, 3, end=0)
    begins = probs(model, (0,))
    assert begins[1] > 0.5 > begins[2] > begins[0]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("length", [1, 2, 3, 9, 60, 700])
@pytest.mark.parametrize(("order", "whole"), [(1, 8), (1, 0), (2, 8), (2, 1), (4, 8), (4, 2), (5, 3)])
def test_it_is_kneser_ney_after_every_context(name, length, order, whole):
    text = TEXTS[name](length)
    model, expected = made(text, 4, order, whole), slow(text, 4, order, whole)
    for n in range(1, 5):
        contexts = list(product(range(4), repeat=n))
        got = model(torch.tensor(contexts))[0][:, -1].exp()
        theirs = torch.tensor([[expected(context, token) for token in range(4)] for context in contexts])
        torch.testing.assert_close(got, theirs, atol=1e-6, rtol=1e-5)
        assert got.min() > 0
        torch.testing.assert_close(got.double().sum(-1), torch.ones(len(contexts), dtype=torch.float64), atol=1e-6, rtol=0)


def test_by_hand():
    """0 1 0 1 1: the pairs 01 twice, 10 once, 11 once. 0 comes after one token, 1 after two. Too few for other discounts
    than 1/2, 1, 3/2, and all shares are exact in float16 but for the sixths."""
    model = made([0, 1, 0, 1, 1], 3, 2)
    none = [(1 - 0.5) / 3, (2 - 1) / 3]  # shares of the empty context for 0 and 1; the rest, 1/2, goes to all alike
    low = [none[0] + 0.5 / 3, none[1] + 0.5 / 3, 0.5 / 3]
    after_0 = [0.5 * low[0], (2 - 1) / 2 + 0.5 * low[1], 0.5 * low[2]]
    after_1 = [(1 - 0.5) / 2 + 0.5 * low[0], (1 - 0.5) / 2 + 0.5 * low[1], 0.5 * low[2]]
    assert probs(model, [0]).tolist() == pytest.approx(after_0, abs=1e-3)
    assert probs(model, [1]).tolist() == pytest.approx(after_1, abs=1e-3)
    assert probs(model, [2]).tolist() == pytest.approx(low, abs=1e-3)


def test_what_counts_below_is_how_many_tokens_come_before():
    """2 comes most often, but after 1 alone; 3 comes after three different ones."""
    text = [1, 2] * 20 + [0, 3, 1, 3, 2, 3]
    assert text.count(2) > 5 * text.count(3)
    after_none = probs(made(text, 5, 2), [4])
    assert after_none[3] > after_none[2]


def test_discounts_by_hand():
    counts = torch.tensor([1] * 10 + [2] * 4 + [3] * 2 + [4] * 1 + [9])
    y = 10 / 18
    assert discounts(counts).tolist() == pytest.approx([1 - 2 * y * 4 / 10, 2 - 3 * y * 2 / 4, 3 - 4 * y * 1 / 2])


@pytest.mark.parametrize("of_counts", [(0, 4, 2, 1), (10, 0, 2, 1), (10, 4, 0, 1), (10, 4, 2, 0), (0, 0, 0, 0), (1, 1, 50, 1)])
def test_discounts_where_there_are_none(of_counts):
    counts = torch.tensor([i for i, number in enumerate(of_counts, 1) for _ in range(number)], dtype=torch.long)
    assert discounts(counts).tolist() == list(FALLBACK)


def test_counts_by_hand():
    one, two = count(torch.tensor([0, 1, 0, 1, 1]), 3, 2)
    assert [part.tolist() for part in two] == [[1, 3, 4], [2, 1, 1]]  # 01, 10, 11: how often
    assert [part.tolist() for part in one] == [[0, 1], [1, 2]]  # after how many different ones


def test_no_two_sequences_share_a_code():
    codes = [
        first_code(3, len(s)) + sum(t * 3**i for i, t in enumerate(reversed(s)))
        for n in range(5)
        for s in product(range(3), repeat=n)
    ]
    assert codes == list(range(first_code(3, 5)))


def test_leaving_out_takes_what_counts_once_and_is_longer():
    text = TEXTS["random"](300)
    counts = count(torch.tensor(text), 4, 4)
    sizes = [made(text, 4, 4, whole).config.entries for whole in range(5)]
    for whole, size in enumerate(sizes):
        assert size == sum(len(each) if n <= whole else int((each > 1).sum()) for n, (_, each) in enumerate(counts, start=1))
    assert sizes == sorted(sizes)
    assert sizes[2] < sizes[4]


@pytest.fixture
def model(tokenizer, text):
    return made(tokenizer.encode(text).ids, len(tokenizer), 6, 4)


def test_the_window_is_all_that_it_sees(model):
    assert model.window == 5
    one, other = torch.randint(model.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    other[-5:] = one[-5:]
    assert torch.equal(model(one[None])[0][:, -1], model(other[None])[0][:, -1])
    other[-5] += 1 if other[-5] == 0 else -1
    assert model(one[None])[1].ids.tolist() == [one[-5:].tolist()]
    assert model(one[None, :2])[1].ids.tolist() == [[-1, -1, -1, *one[:2].tolist()]]


def test_order_one_sees_nothing():
    model = made([0, 1, 1, 1], 3, 1)
    assert model.window == 0
    logits, state = model(torch.tensor([[0, 1, 2]]))
    assert torch.equal(logits[0, 0], logits[0, 2])
    assert torch.equal(model(torch.tensor([[1]]), state)[0][0, 0], logits[0, 0])


def test_all_of_a_text_of_one_character():
    lm = LanguageModel(made([1] * 5_000, 2, 7), Tokenizer.from_text("a"))
    assert probs(lm.model, [1] * 6)[1] > 0.999
    assert probs(lm.model, [1] * 6)[0] > 0
    assert lm.generate("aaaaaaa", SamplingParams(temperature=0, max_new_tokens=9)).text == "a" * 9


def test_a_text_of_nothing_leaves_all_alike():
    assert probs(made([], 4, 3), [1, 2]).tolist() == pytest.approx([0.25] * 4)


def test_two_different_tokens_may_be_many():
    text = [65_535, 3, 65_535, 3, 65_535]
    assert probs(made(text, 2**16, 3), [65_535, 3]).argmax() == 65_535


def test_it_is_quick_enough_to_be_read_a_character_at_a_time(model):
    """Memory, not time, which no test can hold: what is found is a few hundred numbers for each character."""
    with torch.inference_mode():
        logits, _ = model(torch.zeros((64, 256), dtype=torch.long))
    assert logits.shape == (64, 256, model.config.vocab_size)


# Files


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    save(tmp_path / "ngram", model, tokenizer)
    return tmp_path / "ngram"


def test_the_file_is_ten_bytes_for_each_sequence(folder, model):
    size = (folder / "model.safetensors").stat().st_size
    assert 0 < size - 10 * model.config.entries < 500
    assert load(folder).parameters == 2 * model.config.entries
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "ngram", **vars(model.config)}


def test_config_comes_back(model):
    assert NGramConfig.from_json(model.config.to_dict()) == model.config


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((0, 2, 1), "vocab_size is 0; it must be a whole number from 1 to 65,536"),
        ((10**9, 2, 1), "vocab_size is 1000000000"),
        ((None, 2, 1), "vocab_size is None"),
        ((65, 0, 1), "order is 0; it must be a whole number from 1 to 8"),
        ((65, 9, 1), "order is 9"),
        ((65, True, 1), "order is True"),
        ((65, 7, -1), "entries is -1"),
        ((65, 7, 10**12), "entries is 1000000000000"),
        ((512, 7, 1), "for sequences of 512 different tokens 64 bits are enough up to order 6; take that"),
        ((50_257, 5, 1), "64 bits are enough up to order 4; take that"),
    ],
)
def test_sizes_that_cannot_be(sizes, said):
    with pytest.raises(ValueError, match=said):
        NGramConfig.from_json(dict(zip(("vocab_size", "order", "entries"), sizes, strict=True)))
    if sizes[2] == 1 and sizes[0] in (512, 50_257):
        with pytest.raises(ValueError, match=said):
            count(torch.tensor([1, 2, 3]), *sizes[:2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda codes, shares: codes.copy_(codes.flip(0)), "its codes are not in order"),
        (lambda codes, shares: codes[3].copy_(codes[2]), "its codes are not in order"),
        (lambda codes, shares: codes[0].fill_(0), "its codes are not in order"),
        (lambda codes, shares: codes[-1].fill_(2**62), "its codes are not in order"),
        (lambda codes, shares: shares.fill_(1.0), "the shares of a context are no part of 1"),
        (lambda codes, shares: shares[5].fill_(-0.01), "the shares of a context are no part of 1"),
        (lambda codes, shares: shares[5].fill_(float("nan")), "the shares of a context are no part of 1"),
    ],
)
def test_a_table_that_no_counting_made_is_refused(model, tokenizer, tmp_path, damage, said):
    with torch.no_grad():
        damage(model.codes, model.shares)
    save(tmp_path / "odd", model, tokenizer)
    with pytest.raises(CheckpointError, match=rf"model.safetensors is damaged or does not fit \({said}\)"):
        load(tmp_path / "odd")
