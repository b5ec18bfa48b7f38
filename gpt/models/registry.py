"""The registry of model families: what the rest of the project needs to know of each, written once.

A family registers itself at the end of its file under `gpt/models/`. Checkpoints, the engine, the exporter, the trainer,
the model cards and the page read everything that depends on the family from its entry.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from gpt.models.base import Config, Model, StepEngine

# What a family can do: continue a text token by token (the contract of `CausalLM`), draw lines, encode a line as a latent vector,
# fill gaps in a text.
Ability = Literal["writes", "draws", "encodes", "infills"]


@dataclass(frozen=True)
class ModelFamily:
    """One entry of the registry.

    Attributes:
        name: What people call it: `python -m train run NAME`, the "kind" in training.json.
        title: Its name in a sentence.
        model_type: Its name in config.json.
        model_class: The module, built from its config.
        config_class: The config, which reads and checks config.json.
        task: The training task in `train/tasks/`, or None if it is counted or composed.
        description: One line for the model card; `{unit}` becomes "character" or "token".
        explain: (config, unit) -> a sentence for beginners on how it works.
        memory: config -> what its models remember of a text, if they are not limited to the last few tokens.
        base_family: Family of the base model (`gpt.models.base.BaseModel`) that its models need, or None.
        lm_class: The class that `gpt.load` returns for it, or None for `LanguageModel`.
        abilities: What it can do.
        likelihood: Whether log-probabilities of a text are exact, or a lower bound is estimated, or there are none.
        storage_dtype: The dtype of its floating-point weights on disk. They are computed in float32.
        layer_dtype: That of the matrices in its layers, if it is another one.
        functional_state: Its state as tensors for `torch.export`, or None if it cannot be exported.
        make_engine: (model, compiled kernels) -> what computes its decode steps in C. None if there is no kernel for it, or it
            returns None for a model that the kernels cannot run.
        kernel_dtypes: The dtypes of a model's parameters that its kernel reads.
        in_transformers: Whether transformers opens its folder.
        has_attention: Whether `gpt.inspection` shows its attention weights and hidden states.
        has_pair_table: Whether it is a table of pairs, whose counts `recover_counts` returns.
    """

    name: str
    title: str
    model_type: str
    model_class: type[Model]
    config_class: type[Config]
    task: str | None
    description: str
    explain: Callable[[Any, str], str]
    memory: Callable[[Any], str] | None = None
    base_family: str | None = None
    lm_class: Any = None
    abilities: frozenset[Ability] = frozenset({"writes"})
    likelihood: Literal["exact", "bound", "none"] = "exact"
    storage_dtype: torch.dtype = torch.float32
    layer_dtype: torch.dtype | None = None
    functional_state: Any = None
    make_engine: Callable[[Any, ctypes.CDLL], StepEngine | None] | None = None
    kernel_dtypes: frozenset[torch.dtype] = frozenset({torch.float32})
    in_transformers: bool = False
    has_attention: bool = False
    has_pair_table: bool = False


MODEL_REGISTRY: dict[str, ModelFamily] = {}  # by name


def register(family: ModelFamily) -> None:
    """Add a family to `MODEL_REGISTRY`."""
    MODEL_REGISTRY[family.name] = family


def family_of(config: Config) -> ModelFamily:
    """The family of a config. Raises LookupError if its class is not registered."""
    return {family.config_class: family for family in MODEL_REGISTRY.values()}[type(config)]


def parse_config(config: dict[str, Any]) -> Config:
    """Read the content of a config.json.

    Raises:
        ValueError: If "model_type" is missing or unknown, or a value is missing or out of range.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ValueError("it has no model_type")
    by_type = {family.model_type: family for family in MODEL_REGISTRY.values()}
    if model_type not in by_type:
        raise ValueError(f"its model_type is {model_type[:40]!r}; supported are {', '.join(by_type)}")
    return by_type[model_type].config_class.from_dict(config)


def build_model(config: Config) -> Model:
    """A model with the sizes of `config` and initial weights."""
    return family_of(config).model_class(config)
