"""Knowledge distillation (Hinton et al. 2015): the targets are a teacher's probabilities instead of the tokens that follow.

A token says what came next once; a teacher's probabilities say what could have come, so the student overfits later. The
teacher may be a mixture or an ensemble, which predicts better than one model of the student's size can learn from the text.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt.models.base import CausalLM
from train.configs import CausalTrainConfig
from train.data import TokenizedDataset
from train.tasks.causal_lm import CausalLMTask
from train.trainer import Batch


class DistillationTask(CausalLMTask):
    """Train a student on the batches of `CausalLMTask` and a teacher's probabilities for them.

    Args:
        config: The hyperparameters of the student.
        dataset: The tokens.
        prompt: The prompt of samples.
        seed: The seed of samples.
        device: Where to train.
        teacher: A model with the tokenizer of `dataset`; it is not changed.
        low_precision: Compute the teacher's probabilities in bfloat16.
    """

    def __init__(
        self,
        config: CausalTrainConfig,
        dataset: TokenizedDataset,
        prompt: str,
        seed: int,
        device: str,
        teacher: CausalLM,
        low_precision: bool = False,
    ) -> None:
        super().__init__(config, dataset, prompt, seed, device)
        self.teacher, self.device, self.low_precision = teacher.to(device).eval(), device, low_precision

    def sample_batch(self, progress: float, generator: torch.Generator) -> Batch:
        """Inputs and targets (B, T), and the teacher's probabilities (B, T, V)."""
        inputs, targets = super().sample_batch(progress, generator)
        return inputs, targets, self.teacher_probs(inputs)

    @torch.no_grad()
    def teacher_probs(self, inputs: Tensor) -> Tensor:
        """The teacher's probabilities (B, T, V) of the tokens that follow inputs (B, T)."""
        logits: Tensor
        with torch.autocast(self.device, torch.bfloat16, enabled=self.low_precision):
            logits, _ = self.teacher(inputs.to(self.device))
        return logits.float().softmax(dim=-1)

    def training_step(self, batch: Batch, progress: float, phase: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy of the student's probabilities against the teacher's, in nats a token."""
        inputs, targets, probs = batch
        logits, _ = self.model(inputs)
        return {"loss": distillation_loss(logits.float(), targets, probs)}


def distillation_loss(logits: Tensor, targets: Tensor, probs: Tensor) -> Tensor:
    """Mean cross-entropy against probabilities, which is their KL divergence plus the constant entropy of `probs`.

    Args:
        logits: (B, T, V) of the student.
        targets: (B, T), -1 where a position does not count.
        probs: (B, T, V) of the teacher.
    """
    each = F.cross_entropy(logits.flatten(0, 1), probs.flatten(0, 1), reduction="none")
    counts = (targets.flatten() >= 0).float()
    return (each * counts).sum() / counts.sum()
