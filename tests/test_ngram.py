"""Kneser-Ney smoothing, compared with a slow version that uses dictionaries and with probabilities worked out by hand."""

import json
import random
from collections import Counter, defaultdict
from itertools import groupby, product

import numpy as np
import pytest
import torch

from gpt import LanguageModel, NGram, NGramConfig, SamplingParams, Tokenizer, load
from gpt.checkpoint import WEIGHTS, CheckpointError, save
from gpt.models.ngram import FALLBACK_DISCOUNTS, MAX_ORDER, count_ngrams, discounts, first_ngram_id


def fit(ids, vocab_size, order, cutoff=MAX_ORDER, eos=None):
    counts = count_ngrams(torch.tensor(ids, dtype=torch.long), vocab_size, order, eos)
    return NGram.from_counts(counts, vocab_size, cutoff, eos)


def slow_kneser_ney(ids, vocab_size, order, cutoff=MAX_ORDER, eos=None):
    """A function (context, token) -> probability, as the papers define it, with probabilities rounded down to float16."""
    ids, tables = tuple(ids), {}

    def ngrams(n):
        """All sequences of n tokens of one document."""
        sequences = [ids[i : i + n] for i in range(len(ids) - n + 1)]
        return [sequence for sequence in sequences if eos is None or eos not in sequence[1:-1]]

    for n in range(1, order + 1):
        counts = Counter()
        if n == order:
            counts.update(ngrams(n))
        else:
            counts.update(sequence[1:] for sequence in set(ngrams(n + 1)))
            counts.update(sequence for sequence in ngrams(n) if n > 1 and sequence[0] == eos)
        n1, n2, n3, n4 = (list(counts.values()).count(i) for i in (1, 2, 3, 4))
        discount = FALLBACK_DISCOUNTS
        if n1 and n2 and n3 and n4:
            y = n1 / (n1 + 2 * n2)
            discount = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
            discount = discount if all(0 < d < i for i, d in enumerate(discount, 1)) else FALLBACK_DISCOUNTS
        total = Counter()
        for sequence, count in counts.items():
            total[sequence[:-1]] += count
        tables[n] = defaultdict(dict)
        for sequence, count in counts.items():
            if count > 1 or n <= cutoff:
                prob = (count - discount[min(count, 3) - 1]) / total[sequence[:-1]]
                half = np.float16(prob)
                rounded = float(half if float(half) <= prob else np.nextafter(half, np.float16(0)))
                tables[n][sequence[:-1]][sequence[-1]] = rounded

    def probability(context, token, n=order):
        if n == 0:
            return 1 / vocab_size
        if len(context) < n - 1:
            return probability(context, token, n - 1)
        probs = tables[n].get(tuple(context[len(context) - n + 1 :]), {})
        return probs.get(token, 0.0) + (1 - sum(probs.values())) * probability(context, token, n - 1)

    return probability


def probs_after(model, context):
    return model(torch.tensor([context]))[0][0, -1].exp()


@torch.no_grad()
def assert_is_kneser_ney(model, reference, contexts):
    for _, group in groupby(contexts, key=len):
        batch = list(group)
        actual = model(torch.tensor(batch))[0][:, -1].exp()
        expected = torch.tensor([[reference(context, token) for token in range(4)] for context in batch])
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
        assert actual.min() > 0
        torch.testing.assert_close(actual.double().sum(-1), torch.ones(len(batch), dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("order", "cutoff"), [(1, 8), (2, 1), (4, 8), (4, 2), (5, 3)])
def test_probabilities_after_every_context_are_kneser_ney(order, cutoff):
    """For a text with structure, one without, and ones that are shorter than the order."""
    chain = [(i * i + i // 3 + random.Random(i).randrange(2)) % 4 for i in range(700)]
    contexts = [context for n in range(1, 5) for context in product(range(4), repeat=n)]
    for ids in (chain, random.Random(5).choices(range(4), [8, 4, 2, 1], k=60), [2] * 9, [1, 3], [2]):
        assert_is_kneser_ney(fit(ids, 4, order, cutoff), slow_kneser_ney(ids, 4, order, cutoff), contexts)


@pytest.mark.parametrize(("order", "cutoff"), [(1, 8), (2, 1), (3, 8), (5, 3)])
def test_documents_are_counted_apart(order, cutoff):
    starts = [(0, *context) for n in range(4) for context in product((1, 2, 3), repeat=n)]
    within = [context for n in range(1, 4) for context in product((1, 2, 3), repeat=n)]
    for documents in (1, 9, 100):
        rng, ids = random.Random(documents), [0]
        for _ in range(documents):
            ids += [*rng.choices((1, 2, 3), (5, 2, 1), k=rng.randrange(1, 6)), 0]
        model, reference = fit(ids, 4, order, cutoff, 0), slow_kneser_ney(ids, 4, order, cutoff, 0)
        assert_is_kneser_ney(model, reference, starts + within)


def test_first_token_of_a_document_has_its_plain_count():
    """3 of 4 lines start with 1; a continuation count would count how many tokens precede it."""
    model = fit([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 2, 0], 3, 3, eos=0)
    first = probs_after(model, (0,))
    assert first[1] > 0.5 > first[2] > first[0]


def test_probabilities_by_hand():
    """0 1 0 1 1: the pairs 01 twice, 10 and 11 once; 0 follows one token, 1 follows two. All discounts are fallbacks."""
    model = fit([0, 1, 0, 1, 1], 3, 2)
    unigram = [(1 - 0.5) / 3 + 0.5 / 3, (2 - 1) / 3 + 0.5 / 3, 0.5 / 3]
    after_0 = [0.5 * unigram[0], (2 - 1) / 2 + 0.5 * unigram[1], 0.5 * unigram[2]]
    after_1 = [(1 - 0.5) / 2 + 0.5 * unigram[0], (1 - 0.5) / 2 + 0.5 * unigram[1], 0.5 * unigram[2]]
    for context, expected in ((0, after_0), (1, after_1), (2, unigram)):
        assert probs_after(model, [context]).tolist() == pytest.approx(expected, abs=1e-3)  # float16


def test_shorter_contexts_count_how_many_tokens_precede():
    """2 is the most frequent token, but follows only 1; 3 follows three different tokens."""
    ids = [1, 2] * 20 + [0, 3, 1, 3, 2, 3]
    unseen_context = probs_after(fit(ids, 5, 2), [4])
    assert unseen_context[3] > unseen_context[2]


def test_counts_by_hand():
    one, two = count_ngrams(torch.tensor([0, 1, 0, 1, 1]), 3, 2)
    assert [part.tolist() for part in two] == [[1, 3, 4], [2, 1, 1]]  # 01, 10, 11: plain counts
    assert [part.tolist() for part in one] == [[0, 1], [1, 2]]  # continuation counts


@pytest.mark.parametrize(
    "counts_of_counts", [(10, 4, 2, 1), (0, 4, 2, 1), (10, 0, 2, 1), (10, 4, 0, 1), (10, 4, 2, 0), (1, 1, 50, 1)]
)
def test_discounts_by_hand(counts_of_counts):
    """Estimated where every count from 1 to 4 occurs and the estimates are in range."""
    counts = [i for i, number in enumerate(counts_of_counts, 1) for _ in range(number)]
    y = 10 / 18
    estimated = (1 - 2 * y * 4 / 10, 2 - 3 * y * 2 / 4, 3 - 4 * y * 1 / 2)
    expected = estimated if counts_of_counts == (10, 4, 2, 1) else FALLBACK_DISCOUNTS
    assert discounts(torch.tensor(counts)).tolist() == pytest.approx(expected)


def test_ngram_ids_are_unique_and_without_gaps():
    ids = [
        first_ngram_id(3, n) + sum(token * 3**i for i, token in enumerate(reversed(sequence)))
        for n in range(5)
        for sequence in product(range(3), repeat=n)
    ]
    assert ids == list(range(first_ngram_id(3, 5)))


def test_cutoff_prunes_longer_sequences_that_occur_once():
    ids = random.Random(5).choices(range(4), [8, 4, 2, 1], k=300)
    counts = count_ngrams(torch.tensor(ids), 4, 4)
    sizes = [fit(ids, 4, 4, cutoff).config.entries for cutoff in range(5)]
    for cutoff, size in enumerate(sizes):
        assert size == sum(len(c) if n <= cutoff else int((c > 1).sum()) for n, (_, c) in enumerate(counts, start=1))
    assert sizes[2] < sizes[4]


@pytest.fixture
def model(tokenizer, text):
    return fit(tokenizer.encode(text).ids, len(tokenizer), 6, 4)


def test_state_is_the_last_tokens(model):
    assert model.context_length == 5
    one, other = torch.randint(model.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    other[-5:] = one[-5:]
    assert torch.equal(model(one[None])[0][:, -1], model(other[None])[0][:, -1])
    assert model(one[None])[1].ids.tolist() == [one[-5:].tolist()]
    assert model(one[None, :2])[1].ids.tolist() == [[-1, -1, -1, *one[:2].tolist()]]


def test_order_one_ignores_the_context():
    model = fit([0, 1, 1, 1], 3, 1)
    assert model.context_length == 0
    logits, state = model(torch.tensor([[0, 1, 2]]))
    assert torch.equal(logits[0, 0], logits[0, 2])
    assert torch.equal(model(torch.tensor([[1]]), state)[0][0, 0], logits[0, 0])


def test_extreme_texts():
    lm = LanguageModel(fit([1] * 5_000, 2, 7), Tokenizer.from_text("a"))
    assert 0.999 < probs_after(lm.model, [1] * 6)[1] < 1
    assert lm.generate("aaaaaaa", SamplingParams(temperature=0, max_new_tokens=9)).text == "a" * 9
    assert probs_after(fit([], 4, 3), [1, 2]).tolist() == pytest.approx([0.25] * 4)
    assert probs_after(fit([65_535, 3, 65_535, 3, 65_535], 2**16, 3), [65_535, 3]).argmax() == 65_535


def test_shipped_names_model_says_how_far_it_sees():
    """It is a model of lines, but it does not see the whole line."""
    lm = load(WEIGHTS / "ngram-names")
    assert lm.eos_token_id is not None
    assert lm.context_description == "the last 6 characters"


# Files


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    save(tmp_path / "ngram", model, tokenizer)
    return tmp_path / "ngram"


def test_file_has_ten_bytes_for_each_sequence(folder, model):
    size = (folder / "model.safetensors").stat().st_size
    assert 0 < size - 10 * model.config.entries < 500
    assert load(folder).num_parameters == 2 * model.config.entries
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "ngram", **vars(model.config)}


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"order": 9}, "order is 9"),
        ({"order": True}, "order is True"),
        ({"entries": -1}, "entries is -1"),
        ({"entries": 10**12}, "entries is 1000000000000"),
        ({"vocab_size": 512, "order": 7}, "64 bits are enough up to order 6"),
        ({"vocab_size": 50_257, "order": 5}, "64 bits are enough up to order 4"),
    ],
)
def test_sizes_out_of_range_are_rejected(sizes, reason):
    with pytest.raises(ValueError, match=reason):
        NGramConfig.from_dict({"vocab_size": 65, "order": 2, "entries": 1} | sizes)


def test_counting_rejects_an_order_that_does_not_fit():
    with pytest.raises(ValueError, match="64 bits are enough up to order 6"):
        count_ngrams(torch.tensor([1, 2, 3]), 512, 7)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda ids, probs: ids.copy_(ids.flip(0)), "its ngram_ids are not in order"),
        (lambda ids, probs: ids[3].copy_(ids[2]), "its ngram_ids are not in order"),
        (lambda ids, probs: ids[0].fill_(0), "its ngram_ids are not in order"),
        (lambda ids, probs: ids[-1].fill_(2**62), "its ngram_ids are not in order"),
        (lambda ids, probs: probs.fill_(1.0), "its probs of a context do not sum"),
        (lambda ids, probs: probs[5].fill_(-0.01), "its probs of a context do not sum"),
        (lambda ids, probs: probs[5].fill_(float("nan")), "probs contains numbers that are not finite"),
    ],
)
def test_damaged_table_is_rejected(model, tokenizer, tmp_path, damage, reason):
    with torch.no_grad():
        damage(model.ngram_ids, model.probs)
    save(tmp_path / "damaged", model, tokenizer)
    with pytest.raises(CheckpointError, match=rf"model.safetensors .*{reason}"):
        load(tmp_path / "damaged")
