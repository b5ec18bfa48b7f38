"""Lines drawn from any model, so that models of all families can be compared."""

import math
from dataclasses import replace

from gpt.generation import LanguageModel
from gpt.models.diffusion import TextDiffusion
from gpt.sampling import MAX_NEW_TOKENS, MAX_SEED, SamplingParams
from gpt.text_model import TextModel

# Of a model that writes whole texts all at once: whole lines of a text to expect, and how many texts to write together.
LINES_PER_TEXT, MAX_TEXTS = 4, 8


def sample_lines(lm: TextModel, n: int, seed: int) -> list[str]:
    """Draw lines from a model's own distribution, without their ends.

    A model of running text writes without a prompt, and its whole lines count; empty ones are left out.

    Args:
        lm: A model with one of the abilities "writes" and "draws".
        n: Number of lines.
        seed: The same seed gives the same lines on the same build.

    Raises:
        ValueError: If `seed` is not from 0 to 2**32 - 1, or a model of running text writes too few lines.
    """
    if isinstance(lm, LanguageModel):
        return _written_lines(lm, n, seed)
    if isinstance(lm, TextDiffusion) and lm.eos_token_id is None:
        return _lines_of_texts(lm, n, seed)
    return list(lm.sample(n, seed))  # type: ignore[attr-defined]


def _lines_of_texts(lm: TextDiffusion, n: int, seed: int) -> list[str]:
    """Lines of texts that begin with a new line, without the last one, which is cut off."""
    lines: list[str] = []
    texts = 0
    while len(lines) < n:
        if texts >= MAX_TEXTS + n:
            raise ValueError(f"{lm.name} writes too few lines")
        count = min(MAX_TEXTS, math.ceil((n - len(lines)) / LINES_PER_TEXT))
        batch = lm.sample_batch(["\n"] * count, (seed + texts) % MAX_SEED)
        lines += [line for text in batch for line in text.split("\n")[:-1] if line]
        texts += count
    return lines[:n]


def _written_lines(lm: LanguageModel, n: int, seed: int) -> list[str]:
    is_running = lm.eos_token_id is None
    params = SamplingParams(temperature=1.0, max_new_tokens=MAX_NEW_TOKENS, seed=seed)
    lines: list[str] = []
    line = ""
    while len(lines) < n:
        for step in lm.stream("", params):
            *whole, line = (line + step.text).split("\n")
            lines += [each for each in whole if each or not is_running]
            if len(lines) >= n:
                break
        else:
            if not lines:
                raise ValueError(f"{lm.name} writes too few lines")
            params, line = replace(params, seed=((params.seed or 0) + 1) % MAX_SEED), ""
    return lines[:n]
