"""A bigram from nothing but tensors: counted, then learned by gradient descent, which arrives at the same table.

python docs/bigram.py TEXT [STEPS]
"""

import sys
from pathlib import Path

import torch

text = Path(sys.argv[1]).read_text(encoding="utf-8")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000
characters = sorted(set(text))
ids = torch.tensor([characters.index(c) for c in text])
V = len(characters)

# Counting: how often each character followed each, and a little for pairs that the text does not have.
pairs = torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V) + 0.1
counted = pairs / pairs.sum(dim=1, keepdim=True)  # (V, V): row = last character, column = next

# Learning: a table of logits, and small steps down the slope of what the text costs. A batch is all pairs at once.
logits = torch.zeros(V, V, requires_grad=True)
for step in range(steps + 1):
    log_probs = logits - logits.exp().sum(dim=1, keepdim=True).log()
    costs = -(counted * log_probs).sum(dim=1)  # (V,) mean cost after each character, in nats
    if step % max(1, steps // 10) == 0:
        print(f"step {step}: {(costs * pairs.sum(dim=1)).sum() / pairs.sum():.4f} nats a character")
    (slope,) = torch.autograd.grad(costs.sum(), logits)
    with torch.no_grad():
        logits -= 8 * (1 - step / (steps + 1)) * slope

learned = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
entropy = -(pairs / pairs.sum() * counted.log()).sum()
print(f"counted: {entropy:.4f} nats a character; the tables differ by {(learned - counted).abs().max():.5f} at most")

# GenerationSession: after each character, draw the next from its row.
generator, last, written = torch.Generator().manual_seed(1), characters.index("\n") if "\n" in characters else 0, ""
for _ in range(200):
    last = int(torch.multinomial(learned[last].detach(), 1, generator=generator))
    written += characters[last]
print(written)
