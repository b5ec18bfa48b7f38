"""Look inside a GPT: attention weights, hidden states and the logit lens, in plain matrices.

`GPT.forward` is fast: fused attention, a KV cache, batches. This file computes the same for one text, step by step, and
keeps what happens on the way.

Shapes: T tokens, Q queries, C channels, V vocabulary, L layers, nh query heads, nkv key/value heads, hs head size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gpt.models.base import CausalLM
from gpt.models.registry import family_of
from gpt.models.transformer import GPT, Attention, Block, GPTConfig, apply_rotary_emb
from gpt.sampling import check_no_nan


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a GPT computed at the last Q positions of a text.

    Attributes:
        attention: (L, nh, Q, T) how much each query takes from each position. A row sums to 1.
        hidden_states: (L + 1, Q, C) the residual stream: the embedding, then after each layer.
    """

    attention: Tensor
    hidden_states: Tensor


def find_gpt(model: CausalLM) -> GPT | None:
    """The GPT in a model: the model itself, or a part of a mixture; None if it has none."""
    parts = (part for part in model.modules() if isinstance(part, CausalLM) and family_of(part.config).has_attention)
    return cast("GPT | None", next(parts, None))


def _require_gpt(model: CausalLM) -> GPT:
    """The GPT in a model. Raises ValueError if it has none."""
    if gpt := find_gpt(model):
        return gpt
    raise ValueError(f"{family_of(model.config).title} has no attention to look at; choose a GPT or a mixture with one")


def receptive_field(config: GPTConfig) -> int:
    """How many of the last tokens can change a prediction: each layer reaches `sliding_window - 1` further back."""
    return config.num_hidden_layers * (config.sliding_window - 1) + 1


@torch.no_grad()
def inspect(model: CausalLM, ids: Tensor, queries: int = 1) -> Inspection:
    """Read a text and keep the attention weights and hidden states of its last positions.

    Args:
        model: A GPT, or a mixture with one.
        ids: (T,) the tokens of one document. Those before the last `receptive_field` of a query change nothing.
        queries: How many of the last positions to keep: 1 for what predicts the next token, T for whole T x T matrices.

    Raises:
        ValueError: If the model has no attention, there are no tokens, `queries` is not in [1, T], or a number is NaN.
    """
    gpt = _require_gpt(model)
    if ids.ndim != 1 or not len(ids):
        raise ValueError(f"ids have the shape {tuple(ids.shape)}; give the tokens of one text, at least one")
    if not 1 <= queries <= len(ids):
        raise ValueError(f"queries is {queries}; it must be a whole number from 1 to {len(ids)}, the number of tokens")
    ids = ids.to(gpt.lm_head.weight.device)
    positions = torch.arange(len(ids), device=ids.device)
    cos, sin = (part[0, 0] for part in gpt.rotary_emb(positions[None]))  # (T, hs)
    distance = positions[:, None] - positions  # (T, T) how far the key is behind the query; below 0 in the future
    is_hidden = (distance < 0) | (distance >= gpt.config.sliding_window)
    x = gpt.model["embed_tokens"](ids)  # (T, C) the residual stream, to which each layer adds
    hidden_states, weights = [x[-queries:]], []
    for block in cast("Iterable[Block]", gpt.model["layers"].children()):
        layer_weights, out = attention(block.self_attn, block.input_layernorm(x), cos, sin, is_hidden)
        x = x + out  # what other positions have to say
        x = x + block.mlp(block.post_attention_layernorm(x))  # what to make of it
        weights.append(layer_weights[:, -queries:].clone())  # a copy, which does not keep the whole matrix
        hidden_states.append(x[-queries:])
    check_no_nan(hidden_states[-1])
    return Inspection(torch.stack(weights).cpu(), torch.stack(hidden_states).cpu())


def attention(layer: Attention, x: Tensor, cos: Tensor, sin: Tensor, is_hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Compute one attention layer.

    Each position has three vectors in each head:

    - its query says what it looks for,
    - its key says what it has to offer,
    - its value is what it passes on.

    A query that matches a key well takes much of the value beside that key.

    Args:
        layer: The weights.
        x: (T, C) the normed residual stream.
        cos: (T, hs) cosines of the rotary positions.
        sin: (T, hs) sines of the rotary positions.
        is_hidden: (T, T) which keys each query does not see.

    Returns:
        The weights (nh, T, T), row = query, column = key, and what to add to the residual stream (T, C).
    """
    T = len(x)
    q, k, v = (
        projection(x).view(T, -1, layer.head_dim).transpose(0, 1)  # (nh, T, hs), or (nkv, T, hs) for keys and values
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    # QK-norm gives queries and keys a fixed length. Rotary positions then make their product depend on the distance.
    q = apply_rotary_emb(layer.q_norm(q), cos, sin)
    k = apply_rotary_emb(layer.k_norm(k), cos, sin)
    k, v = (part.repeat_interleave(len(q) // len(k), dim=0) for part in (k, v))  # query heads may share keys and values
    scores = q @ k.transpose(1, 2) / layer.head_dim**0.5  # (nh, T, T) how well each query matches each key
    weights = scores.masked_fill(is_hidden, -torch.inf).softmax(dim=-1)
    heads = weights @ v  # (nh, T, hs) the mean of the values, by weight
    return weights, layer.o_proj(heads.transpose(0, 1).reshape(T, -1))


@torch.no_grad()
def logit_lens(model: CausalLM, hidden_states: Tensor) -> Tensor:
    """What the model would predict if it stopped after each layer (nostalgebraist 2020).

    The final norm and the output layer were trained on the last layer only: earlier ones are an intermediate reading, not
    calibrated probabilities.

    Args:
        model: A GPT, or a mixture with one.
        hidden_states: (L + 1, Q, C) of `inspect`.

    Returns:
        Log-probabilities (L + 1, Q, V). The last are the prediction of the GPT.
    """
    gpt = _require_gpt(model)
    logits: Tensor = gpt.lm_head(gpt.model["norm"](hidden_states.to(gpt.lm_head.weight.device)))
    return logits.float().log_softmax(dim=-1).cpu()
