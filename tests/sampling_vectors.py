"""Distributions and what `gpt.sampling` makes of them, for the tests of ui/static/js/sampling.js.

python tests/sampling_vectors.py writes tests/data/sampling_vectors.json again.
"""

import json
import math
from pathlib import Path

import torch

from gpt.distribution import STEPS_PER_BIT
from gpt.sampling import SamplingParams, sampling_probs

PATH = Path(__file__).parent / "data" / "sampling_vectors.json"
DISTRIBUTIONS = [  # -log2 p
    [0.0],
    [1.0, 2.0, 3.0, 3.0],
    [2.0, 2.0, 2.0, 2.0],
    [3.0, 1.0, 3.0, 2.0],
    [64.0, 0.0, 1024.0],
]
SETTINGS = [
    SamplingParams(temperature, top_k, top_p, min_p)
    for temperature in (0, 1e-3, 0.3, 0.8, 1, 2, 5)
    for top_k, top_p, min_p in (
        (0, 1.0, 0.0),
        (1, 1.0, 0.0),
        (2, 1.0, 0.0),
        (0, 0.7, 0.0),
        (0, 1e-6, 0.0),
        (0, 1.0, 0.3),
        (9, 0.9, 0.05),
    )
]


def random_bits(size: int, scale: float, seed: int) -> list[float]:
    """-log2 p of a random distribution, quantized as for the page, with a few equal ones."""
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    bits = -logits.log_softmax(-1) / math.log(2)
    bits[size // 2 :: 5] = bits[0]
    return ((bits * STEPS_PER_BIT).round() / STEPS_PER_BIT).tolist()


def filtered(bits: list[float], params: SamplingParams) -> torch.Tensor:
    return sampling_probs(-torch.tensor(bits, dtype=torch.float64) * math.log(2), params)


def vectors() -> list[dict]:
    """For each distribution and setting, the probabilities after temperature and filters."""
    distributions = [*DISTRIBUTIONS, random_bits(27, 2, 0), random_bits(65, 4, 1)]
    return [
        {
            "bits": bits,
            "params": {"temperature": p.temperature, "topK": p.top_k, "topP": p.top_p, "minP": p.min_p},
            "probs": [round(prob, 12) for prob in filtered(bits, p).tolist()],
        }
        for bits in distributions
        for p in SETTINGS
    ]


if __name__ == "__main__":
    PATH.write_text("[\n" + ",\n".join(map(json.dumps, vectors())) + "\n]\n")
