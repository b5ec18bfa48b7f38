"""Model families that are fitted by counting: closed form, no gradient descent.

Hyperparameters are chosen on the last tenth of the training documents with the rest counted; then all of them are counted.
The held-out part plays no role.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt import Bigram, BigramConfig, NGram
from gpt.models.base import CausalLM
from gpt.models.ngram import MAX_ORDER, count_all_ngrams, count_ngrams, discounted_probs, discounts, first_ngram_id
from train.data import TokenizedDataset, concatenate, split_documents
from train.evaluate import EVAL_CONTEXT, token_nll

ADD_K_GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
CUTOFFS_BELOW_ORDER = 2  # singleton cutoffs tried: the order and this many below it


def fit_bigram(tokenized: TokenizedDataset) -> tuple[Bigram, dict[str, Any]]:
    """Count a bigram, with the k of add-k smoothing chosen from `ADD_K_GRID`.

    Returns:
        The model, and the facts for training.json.
    """
    model = Bigram(BigramConfig(len(tokenized.tokenizer), tokenized.eos_token_id))
    counted, validation = map(concatenate, split_documents(tokenized.train))
    k = min(ADD_K_GRID, key=lambda k: pair_nll(model.fit_counts(counted, k), validation))
    return model.fit_counts(concatenate(tokenized.train), k), {"method": "counting", "k": k}


def pair_nll(model: Bigram, ids: Tensor) -> float:
    """Mean -log p of each token of ids (N,) after the one before it, in nats: what `evaluate` returns, from the table itself."""
    return -model.logits.detach().log_softmax(dim=1)[ids[:-1], ids[1:]].double().mean().item()


def fit_ngram(tokenized: TokenizedDataset) -> tuple[NGram, dict[str, Any]]:
    """Count an n-gram with interpolated modified Kneser-Ney smoothing, with its order and singleton cutoff chosen.

    Returns:
        The model, and the facts for training.json.
    """
    vocab_size, eos_token_id = len(tokenized.tokenizer), tokenized.eos_token_id
    counted, validation = split_documents(tokenized.train)
    tried = score_orders(concatenate(counted), validation, vocab_size, eos_token_id)
    best = min(tried, key=lambda each: each["nll"])
    order, cutoff = int(best["order"]), int(best["singleton_cutoff"])
    counts = count_ngrams(concatenate(tokenized.train), vocab_size, order, eos_token_id)
    facts = {
        "method": "counting",
        "smoothing": "interpolated modified Kneser-Ney",
        "order": order,
        "singleton_cutoff": cutoff,
        "discounts": [discounts(each).tolist() for _, each in counts],
        "tried": tried,
    }
    return NGram.from_counts(counts, vocab_size, cutoff, eos_token_id), facts


def score_orders(ids: Tensor, validation: list[Tensor], vocab_size: int, eos_token_id: int | None) -> list[dict[str, float]]:
    """The loss of n-grams of all orders and singleton cutoffs, without building one: each sequence is counted once.

    The probability of a target is interpolated from the shortest context up: p_n = prob_n + backoff_n p_(n-1), with its
    discounted probability and the probability that the discounts free after its context of n - 1 tokens.

    Args:
        ids: (N,) the text to count.
        validation: The documents to score, read as `evaluate` reads them.
        vocab_size: Number of tokens.
        eos_token_id: The token that ends a document.

    Returns:
        Order, singleton cutoff and loss in nats a token of each.
    """
    orders = [n for n in range(1, MAX_ORDER + 1) if vocab_size ** (n + 1) < 2**63]  # n-gram ids that fit into 64 bits
    plain, continuation = count_all_ngrams(ids, vocab_size, orders[-1], eos_token_id)
    tables = {}  # (prob, backoff) of each target by length, kind of count, and whether what occurs once is pruned
    for n, target_ids, known in _targets(validation, vocab_size, orders[-1], eos_token_id):
        for name, counts in (("plain", plain), ("continuation", continuation)):
            if n <= len(counts):
                digits, count = counts[n - 1]
                ngram_ids, probs = digits + first_ngram_id(vocab_size, n), discounted_probs(digits, count, vocab_size)
                for is_pruned, keep in ((False, count > 0), (True, count > 1)):
                    tables[n, name, is_pruned] = _interpolation(ngram_ids[keep], probs[keep], vocab_size, target_ids, known)
    tried = []
    for order in orders[1:]:
        for cutoff in range(max(1, order - CUTOFFS_BELOW_ORDER), order + 1):
            p: Tensor | float = 1 / vocab_size
            for n in range(1, order + 1):
                prob, backoff = tables[n, "plain" if n == order else "continuation", n > cutoff]
                p = prob + backoff * p
            tried.append({"order": order, "singleton_cutoff": cutoff, "nll": -torch.as_tensor(p).log().mean().item()})
    return tried


def ngram_nll(model: NGram, documents: list[Tensor]) -> Tensor:
    """What `token_nll` returns, looked up for the targets only: four times as fast as predicting the whole vocabulary."""
    V = model.config.vocab_size
    p: Tensor | float = 1 / V
    for _, target_ids, known in _targets(documents, V, model.config.order, model.config.eos_token_id):
        prob, backoff = _interpolation(model.ngram_ids, model.probs, V, target_ids, known)
        p = prob + backoff * p
    return -torch.as_tensor(p).log().float()


def _targets(
    documents: list[Tensor], vocab_size: int, order: int, eos_token_id: int | None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """All N targets of documents, with contexts of 0 to `order` - 1 tokens.

    Yields:
        The length n of context and target; the n-gram id of both (N,); whether the target has such a context (N,), which does
        not reach back over the start of its document or of its window.
    """
    ids = concatenate(documents)
    positions = torch.arange(1, len(ids))
    if eos_token_id is None:
        before = (positions - 1) % EVAL_CONTEXT + 1  # tokens before each target in its window
    else:
        ends = (ids == eos_token_id).nonzero().squeeze(1)
        before = positions - ends[torch.searchsorted(ends, positions) - 1]
    digits = torch.zeros_like(positions)
    for n in range(1, order + 1):
        digits = digits + ids[(positions - n + 1).clamp(min=0)] * vocab_size ** (n - 1)
        yield n, digits + first_ngram_id(vocab_size, n), before >= n - 1


def _interpolation(ngram_ids: Tensor, probs: Tensor, vocab_size: int, target_ids: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The discounted probability (N,) of targets, and the probability (N,) that is left after their contexts.

    Args:
        ngram_ids: Sorted n-gram ids, those of other lengths included or not.
        probs: Their discounted probabilities.
        vocab_size: Number of tokens.
        target_ids: (N,) the n-gram id of each target with its context.
        known: (N,) whether it has such a context.
    """
    probs = probs.double()
    total = F.pad(probs.cumsum(0), (1, 0))  # exact: multiples of 2**-24
    start = (target_ids - 1) // vocab_size * vocab_size + 1  # of the continuations of the context
    first, last, place = torch.searchsorted(ngram_ids, torch.stack((start, start + vocab_size, target_ids)))
    found = known & (F.pad(ngram_ids, (0, 1), value=-1)[place] == target_ids)
    prob = torch.where(found, F.pad(probs, (0, 1))[place], 0.0)
    return prob, torch.where(known, 1 - (total[last] - total[first]), 1.0)


@dataclass(frozen=True)
class CountedModel:
    """A model that was counted, and its losses.

    Attributes:
        model: The model.
        facts: For training.json.
        nll: (N,) -log p of each held-out token, in nats.
    """

    model: CausalLM
    facts: dict[str, Any]
    nll: Tensor


def fit_baselines(tokenized: TokenizedDataset) -> dict[str, CountedModel]:
    """Count the models that every other one is compared with, by name of the family: a bigram and an n-gram."""
    (bigram, bigram_facts), (ngram, ngram_facts) = fit_bigram(tokenized), fit_ngram(tokenized)
    return {
        "bigram": CountedModel(bigram, bigram_facts, token_nll(bigram, tokenized.held_out)),
        "ngram": CountedModel(ngram, ngram_facts, ngram_nll(ngram, tokenized.held_out)),
    }


FitFunction = Callable[[TokenizedDataset], tuple[CausalLM, dict[str, Any]]]
FIT_FUNCTIONS: dict[str, FitFunction] = {"bigram": fit_bigram, "ngram": fit_ngram}  # by name of the model family
