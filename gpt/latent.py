"""A text VAE at work: from a line to its point in the latent space, back, and along the way between two lines."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gpt.generate import LanguageModel
from gpt.sampling import SamplingParams
from gpt.tokenizer import Tokenizer
from gpt.vae import VAE, Course

LONGEST = 256  # tokens of a line that `decode` writes
LIKELIEST = SamplingParams(temperature=0, max_new_tokens=LONGEST)


class LatentModel(LanguageModel):
    """A VAE and its tokenizer: what `gpt.load` gives for one. It writes lines from anywhere in the latent space.

    Its `score` reads a text from the middle of the space; what a line costs wherever it lies is bounded in train/latent.py.
    """

    model: VAE

    def __init__(self, model: VAE, tokenizer: Tokenizer, name: str = "model") -> None:
        super().__init__(model, tokenizer, name)

    @torch.inference_mode()
    def encode(self, text: str) -> Tensor:
        """The mean (Z,) of where a line lies. Raises ValueError if it is more than one line, or nothing the model knows."""
        ids = self.tokenizer.encode(text).ids
        if not ids or self.model.config.eos_token_id in ids:
            raise ValueError(f"{text[:60]!r} is no line that this model knows; give one line, with characters that it has")
        line = torch.tensor([[self.model.config.eos_token_id, *ids]])
        mean, _ = self.model.encode(line, torch.tensor([line.shape[1]]))
        return mean[0]

    def decode(self, z: Tensor | Sequence[float], params: SamplingParams = LIKELIEST) -> str:
        """The line at a point (Z,) of the latent space, each token the likeliest; or drawn, with other `params`.

        Raises ValueError if the point has not as many numbers as the space.
        """
        return self.decode_all([z], params)[0]

    def decode_all(self, points: Sequence[Tensor | Sequence[float]], params: SamplingParams = LIKELIEST) -> list[str]:
        """The lines at several points, together; the i-th is drawn with the i-th seed from that of `params` on."""
        params, size = params.seeded(), self.model.config.latent_size
        rows = []
        for i, point in enumerate(points):
            z = torch.as_tensor(point, dtype=torch.float32)
            if z.shape != (size,) or not z.isfinite().all():
                raise ValueError(f"a point is {tuple(z.shape)} numbers; this latent space has {size}")
            rows.append(self.open("", replace(params, seed=((params.seed or 0) + i) % 2**32), Course(z[None])))
        texts = [""] * len(rows)
        left = [i for i, row in enumerate(rows) if row.left]
        while left:
            steps = dict(zip(left, self.step([rows[i] for i in left]), strict=True))
            left = [i for i, step in steps.items() if step.token_id != self.end_id]
            for i in left:
                texts[i] += steps[i].text
            left = [i for i in left if rows[i].left]
        return texts

    def interpolate(self, a: str, b: str, steps: int) -> list[str]:
        """The lines at `steps` points on the straight way from one line to another, the two ends among them."""
        if steps < 2:
            raise ValueError(f"steps is {steps}; a way has two ends, so it must be 2 or more")
        start, end = self.encode(a), self.encode(b)
        return self.decode_all([torch.lerp(start, end, i / (steps - 1)) for i in range(steps)])
