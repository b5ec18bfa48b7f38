"""What can be had without learning: an n-gram whose length is chosen on text that it was not counted on."""

from typing import Any

from torch import Tensor

from gpt import NGram
from gpt.models.ngram import LONGEST, count, discounts
from train.evaluate import WINDOW, evaluate

SHORTER = 3  # lengths from which on leaving out is tried: the order, and those below it


def fit_ngram(ids: Tensor, vocab_size: int, end_id: int | None = None) -> tuple[NGram, dict[str, Any]]:
    """The n-gram of a text of ids (N,), and how it was made.

    Its order, and from what length on sequences that count once are left out, are those that do best on the last tenth
    of the text when the rest of it is counted.
    """
    cut = int(len(ids) * 0.9)
    tried = []
    for order in range(2, LONGEST + 1):
        if vocab_size ** (order + 1) >= 2**63:  # long before that, no text has such sequences twice
            break
        counts = count(ids[:cut], vocab_size, order, end_id)
        for whole in range(max(1, order - SHORTER + 1), order + 1):
            loss = evaluate(NGram.smoothed(counts, vocab_size, whole, end_id), ids[cut:], WINDOW).nats_per_token
            tried.append({"order": order, "whole": whole, "nats": loss})
    best = min(tried, key=lambda each: each["nats"])
    order, whole = int(best["order"]), int(best["whole"])
    counts = count(ids, vocab_size, order, end_id)
    how = {"method": "counting", "smoothing": "interpolated modified Kneser-Ney", "order": order, "whole": whole}
    how |= {"discounts": [discounts(each).tolist() for _, each in counts], "tried": tried}
    return NGram.smoothed(counts, vocab_size, whole, end_id), how
