"""A bigram model of tensors only: counted, then trained by gradient descent, which arrives at the same table.

python docs/bigram.py TEXT [STEPS]
"""

import argparse
import sys
from pathlib import Path

import torch

parser = argparse.ArgumentParser(description="Fit a bigram model to a text, by counting and by gradient descent.")
parser.add_argument("text", type=Path, help="a text file in UTF-8")
parser.add_argument("steps", type=int, nargs="?", default=1_000, help="steps of gradient descent (default: %(default)s)")
args = parser.parse_args()
try:
    text, steps = args.text.read_text(encoding="utf-8"), args.steps
except (OSError, UnicodeDecodeError):
    sys.exit(f"{args.text} cannot be read as a text in UTF-8; give another file")
if len(text) < 2 or steps < 1:
    sys.exit("a bigram needs a text of at least 2 characters and at least 1 step")
characters = sorted(set(text))
ids = torch.tensor([characters.index(c) for c in text])
V = len(characters)

# Counting: how often each character follows each other one, plus 0.1 so that no pair is impossible.
pairs = torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V) + 0.1
counted = pairs / pairs.sum(dim=1, keepdim=True)  # (V, V): row = last character, column = next

# Training: a table of logits and gradient descent on the loss. A batch is all pairs at once.
logits = torch.zeros(V, V, requires_grad=True)
for step in range(steps + 1):
    log_probs = logits - logits.exp().sum(dim=1, keepdim=True).log()
    nll = -(counted * log_probs).sum(dim=1)  # (V,) mean after each character, in nats
    if step % max(1, steps // 10) == 0:
        print(f"step {step}: {(nll * pairs.sum(dim=1)).sum() / pairs.sum():.4f} nats per character")
    (grad,) = torch.autograd.grad(nll.sum(), logits)
    with torch.no_grad():
        logits -= 8 * (1 - step / (steps + 1)) * grad  # a learning rate of 8, decayed to 0

trained = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
entropy = -(pairs / pairs.sum() * counted.log()).sum()
print(f"counted: {entropy:.4f} nats per character; the tables differ by {(trained - counted).abs().max():.5f} at most")

# Generation: sample each character from the row of the one before it.
generator, last, generated = torch.Generator().manual_seed(1), characters.index("\n") if "\n" in characters else 0, ""
for _ in range(200):
    last = int(torch.multinomial(trained[last].detach(), 1, generator=generator))
    generated += characters[last]
print(generated)
