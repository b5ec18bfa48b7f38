"""The loss and the gradient of a bigram from PyTorch's autograd, for the tests of ui/static/js/bigram-training.js.

python tests/bigram_training_vectors.py writes tests/data/bigram_training_vectors.json again.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

PATH = Path(__file__).parent / "data" / "bigram_training_vectors.json"
PAIRS = [(0, 1), (0, 1), (0, 2), (1, 0), (1, 3), (3, 3), (3, 0), (0, 1), (1, 0), (3, 1)]  # nothing follows token 2
V, STEPS, LEARNING_RATE = 4, 20, 3.0


def vectors():
    """The loss and the gradient of a random table, and a few steps of SGD on it."""
    counts = [[PAIRS.count((last, following)) for following in range(V)] for last in range(V)]
    logits = torch.randn(V, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    start = logits.tolist()
    last, following = torch.tensor(PAIRS).T
    optimizer = torch.optim.SGD([logits], lr=LEARNING_RATE)
    losses, gradient = [], None
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(logits[last], following)
        loss.backward()
        gradient = gradient or logits.grad.tolist()
        losses.append(loss.item())
        optimizer.step()
    return {
        "counts": counts,
        "learning_rate": LEARNING_RATE,
        "start": start,
        "gradient": gradient,
        "losses": losses,
        "end": logits.tolist(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=1) + "\n")
