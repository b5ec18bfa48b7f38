"""Training tasks: what differs between model families. The registry of `gpt.models` names the task of each family."""

from typing import Any

from train.tasks.causal_lm import CausalLMTask
from train.tasks.diffusion import DiffusionTask
from train.tasks.distillation import DistillationTask
from train.tasks.gan import GANTask
from train.tasks.latent_diffusion import LatentDiffusionTask
from train.tasks.vae import VAETask

TASKS: dict[str, Any] = {
    "causal_lm": CausalLMTask,
    "diffusion": DiffusionTask,
    "gan": GANTask,
    "latent_diffusion": LatentDiffusionTask,
    "vae": VAETask,
}

__all__ = ["TASKS", "CausalLMTask", "DiffusionTask", "DistillationTask", "GANTask", "LatentDiffusionTask", "VAETask"]
