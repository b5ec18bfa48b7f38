"""Model families that are fitted by counting: closed form, no gradient descent.

Hyperparameters are chosen on the last tenth of the training documents with the rest counted; then all of them are counted.
The held-out part plays no role.
"""

from collections.abc import Callable
from typing import Any

from gpt import Bigram, BigramConfig, NGram
from gpt.models.base import CausalLM
from gpt.models.ngram import MAX_ORDER, count_ngrams, discounts
from train.data import TokenizedDataset, concatenate, split_documents
from train.evaluate import evaluate

ADD_K_GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
CUTOFFS_BELOW_ORDER = 2  # singleton cutoffs tried: the order and this many below it


def fit_bigram(tokenized: TokenizedDataset) -> tuple[Bigram, dict[str, Any]]:
    """Count a bigram, with the k of add-k smoothing chosen from `ADD_K_GRID`.

    Returns:
        The model, and the facts for training.json.
    """
    model = Bigram(BigramConfig(len(tokenized.tokenizer), tokenized.eos_token_id))
    counted, validation = split_documents(tokenized.train)
    ids = concatenate(counted)
    k = min(ADD_K_GRID, key=lambda k: evaluate(model.fit_counts(ids, k), validation).nats_per_token)
    return model.fit_counts(concatenate(tokenized.train), k), {"method": "counting", "k": k}


def fit_ngram(tokenized: TokenizedDataset) -> tuple[NGram, dict[str, Any]]:
    """Count an n-gram with interpolated modified Kneser-Ney smoothing, with its order and singleton cutoff chosen.

    Returns:
        The model, and the facts for training.json.
    """
    vocab_size, eos_token_id = len(tokenized.tokenizer), tokenized.eos_token_id
    counted, validation = split_documents(tokenized.train)
    ids = concatenate(counted)
    tried = []
    for order in range(2, MAX_ORDER + 1):
        if vocab_size ** (order + 1) >= 2**63:  # its n-gram ids do not fit into 64 bits
            break
        counts = count_ngrams(ids, vocab_size, order, eos_token_id)
        for cutoff in range(max(1, order - CUTOFFS_BELOW_ORDER), order + 1):
            model = NGram.from_counts(counts, vocab_size, cutoff, eos_token_id)
            tried.append({"order": order, "singleton_cutoff": cutoff, "nll": evaluate(model, validation).nats_per_token})
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


FitFunction = Callable[[TokenizedDataset], tuple[CausalLM, dict[str, Any]]]
FIT_FUNCTIONS: dict[str, FitFunction] = {"bigram": fit_bigram, "ngram": fit_ngram}  # by name of the model family
