"""Training tasks: what differs between model families. The registry of `gpt.models` names the task of each family."""

from train.tasks.causal_lm import CausalLMTask
from train.tasks.distillation import DistillationTask
from train.tasks.vae import VAETask

TASKS: dict[str, type[CausalLMTask]] = {"causal_lm": CausalLMTask, "vae": VAETask}

__all__ = ["TASKS", "CausalLMTask", "DistillationTask", "VAETask"]
