"""GPT: a decoder-only transformer in the shape, and with the parameter names, of Qwen3.

RMSNorm (Zhang & Sennrich 2019) before each part, rotary positions (RoPE, Su et al. 2021), attention with normed
queries and keys, grouped key/value heads (Ainslie et al. 2023), SwiGLU (Shazeer 2020), no biases; Qwen3 report (2025).
Attention has a sliding window: a position sees itself and the `sliding_window - 1` positions before it, so each token
costs the same for any length of the text. transformers' `Qwen3ForCausalLM` opens the same folder and gives the same logits.

Shapes: B batch, T time, C channels (hidden_size), V vocabulary, L layers, nh query heads, nkv key/value heads,
hs head size, W sliding window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt.engine import Engine
from gpt.models.base import CausalLM, check_eos_token_id
from gpt.models.registry import ModelFamily, register

# Upper bounds, so that a mistyped size in a config.json is rejected before memory is allocated.
MAX_SIZE = 2**18  # of every size that MAX_SIZES does not name
MAX_SIZES = {"num_hidden_layers": 1_000, "sliding_window": 2**15, "rope_theta": 1e12, "rms_norm_eps": 1}


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT, under the names of Qwen3's config.json.

    Raises ValueError if a size is out of range or the sizes do not fit together.
    """

    vocab_size: int
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    num_key_value_heads: int = 6
    head_dim: int = 32
    sliding_window: int = 256
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        check_eos_token_id(self.eos_token_id, self.vocab_size)
        for name, value in self._sizes().items():
            most = MAX_SIZES.get(name, MAX_SIZE)
            if not 0 < value <= most:
                raise ValueError(f"{name} is {value!r}; it must be above 0 and at most {most:,}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads cannot share {self.num_key_value_heads} key/value heads; "
                "the first must be a multiple of the second"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary positions rotate pairs of numbers, so it must be even")

    def to_dict(self) -> dict[str, Any]:
        """The config.json that transformers' `Qwen3Config` reads."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "dtype": "float32",  # of the computation; the weights may be stored in float16
            **{name: value for name, value in self._sizes().items() if name != "rope_theta"},
            **self._fixed(self.num_hidden_layers),
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            # Rotary positions are unbounded, and the window keeps the cost of each constant.
            "max_position_embeddings": 131_072,
            "bos_token_id": None,
            "eos_token_id": self.eos_token_id,
            "use_cache": True,
        }

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "GPTConfig":
        """Inverse of `to_dict`. Raises ValueError if a key is missing or asks for what this GPT does not support."""
        rope = config.get("rope_parameters")
        if not isinstance(rope, dict) or rope.get("rope_type") != "default":
            raise ValueError(f"rope_parameters is {rope!r}; this GPT has rope_type 'default'")
        sizes: dict[str, Any] = {name: config.get(name) for name in cls.__dataclass_fields__ if name != "eos_token_id"}
        sizes["rope_theta"] = rope.get("rope_theta")
        for name, value in sizes.items():
            is_real = cls.__dataclass_fields__[name].type is float
            if type(value) not in ((int, float) if is_real else (int,)):
                raise ValueError(f"{name} is {value!r}; it must be a {'' if is_real else 'whole '}number")
        result = cls(**sizes, eos_token_id=config.get("eos_token_id"))
        for name, supported in cls._fixed(result.num_hidden_layers).items():
            if config.get(name) != supported:
                raise ValueError(f"{name} is {config.get(name)!r}; this GPT has {supported!r}")
        return result

    def _sizes(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "eos_token_id"}

    @staticmethod
    def _fixed(layers: int) -> dict[str, Any]:
        """Keys of Qwen3's config of which this model supports only one value."""
        return {
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": False,
            "use_sliding_window": True,
            "max_window_layers": 0,
            "layer_types": ["sliding_attention"] * layers,
        }


class AttentionCache(Protocol):
    """What the attention layers need of a cache: keys and values of earlier positions, for each layer."""

    length: Tensor
    is_empty: bool

    def key_positions(self, positions: Tensor) -> Tensor:
        """(B, S): the position of each key that `update` will return, below 0 for an empty slot."""

    def update(self, layer: int, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, nkv, T, hs) of `positions` (B, T); return the keys and values (B, nkv, S, hs) to attend to."""

    def advance(self, tokens: int) -> None:
        """Add `tokens` to the length, after every layer was updated."""


class RotatingKVCache:
    """Keys and values of the last W positions of each sequence, in every layer.

    A ring buffer: position p is stored in slot p % W, so a new position overwrites the oldest one. Sequences may have
    different lengths. `GPT.forward` updates it in place.

    Args:
        keys: (L, B, nkv, W, hs).
        values: (L, B, nkv, W, hs).
        length: (B,) number of tokens that each sequence has read.
        is_empty: Whether no sequence has read any token.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: Tensor, is_empty: bool) -> None:
        self.keys, self.values, self.length, self.is_empty = keys, values, length, is_empty
        self.context_length = keys.shape[-2]

    @classmethod
    def empty(cls, config: GPTConfig, batch_size: int, like: Tensor) -> "RotatingKVCache":
        """A cache for new sequences, with the dtype and device of `like`."""
        shape = (config.num_hidden_layers, batch_size, config.num_key_value_heads, config.sliding_window, config.head_dim)
        length = torch.zeros(batch_size, dtype=torch.long, device=like.device)
        return cls(like.new_zeros(shape), like.new_zeros(shape), length, True)

    @classmethod
    def merge(cls, caches: Sequence["RotatingKVCache"]) -> "RotatingKVCache":
        """Concatenate the batches of several caches."""
        keys, values = (torch.cat(parts, dim=1) for parts in zip(*((c.keys, c.values) for c in caches), strict=True))
        return cls(keys, values, torch.cat([c.length for c in caches]), all(c.is_empty for c in caches))

    def extract(self, i: int) -> "RotatingKVCache":
        """Copy sequence `i`."""
        one = slice(i, i + 1)
        return RotatingKVCache(self.keys[:, one].clone(), self.values[:, one].clone(), self.length[one].clone(), self.is_empty)

    def clone(self) -> "RotatingKVCache":
        """Copy all sequences."""
        return RotatingKVCache(self.keys.clone(), self.values.clone(), self.length.clone(), self.is_empty)

    @property
    def nbytes(self) -> int:
        """Memory of keys, values and lengths, in bytes."""
        return self.keys.nbytes + self.values.nbytes + self.length.nbytes

    def key_positions(self, positions: Tensor) -> Tensor:
        """(B, S): the position of each key that `update` will return, below 0 for an empty slot."""
        if self.is_empty:
            return positions
        last = positions[:, -1:] if positions.shape[1] == 1 else self.length[:, None] - 1
        slots = last - (last - torch.arange(self.context_length, device=last.device)) % self.context_length  # (B, W)
        return slots if positions.shape[1] == 1 else torch.cat((slots, positions), dim=1)

    def update(self, layer: int, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, nkv, T, hs) of `positions` (B, T); return the keys and values (B, nkv, S, hs) to attend to."""
        if self.is_empty:
            keys, values = k, v
        elif positions.shape[1] > 1:  # the first new positions still attend to keys that the last ones overwrite
            keys, values = torch.cat((self.keys[layer], k), dim=2), torch.cat((self.values[layer], v), dim=2)
        else:
            keys, values = self.keys[layer], self.values[layer]  # views, which include the update below
        batch, W = torch.arange(len(positions), device=positions.device)[:, None], self.context_length
        slots = positions[:, -W:] % W
        self.keys[layer][batch, :, slots] = k.detach()[:, :, -W:].transpose(1, 2).to(self.keys.dtype)
        self.values[layer][batch, :, slots] = v.detach()[:, :, -W:].transpose(1, 2).to(self.values.dtype)
        return keys, values

    def advance(self, tokens: int) -> None:
        """Add `tokens` to the length, after every layer was updated."""
        self.length += tokens
        self.is_empty = False


class FunctionalKVCache:
    """A KV cache without in-place updates, for `torch.export`: made from tensors, it returns new ones.

    Args:
        memory: (B, L, 2, nkv, W, hs) keys and values of the last W positions in order, the newest last.
        length: (B,) tokens read so far, as a float, exact below 2**24.
    """

    def __init__(self, memory: Tensor, length: Tensor) -> None:
        self.memory, self.length, self.is_empty = memory, length.long(), False
        self.context_length = memory.shape[-2]
        self.updated: list[Tensor] = []  # one (B, 2, nkv, W, hs) for each layer

    @staticmethod
    def shapes(config: GPTConfig) -> list[list[int]]:
        """Shapes of its tensors for one sequence."""
        memory = [config.num_hidden_layers, 2, config.num_key_value_heads, config.sliding_window, config.head_dim]
        return [memory, []]

    def tensors(self) -> list[Tensor]:
        """Memory and length after the call."""
        return [torch.stack(self.updated, dim=1), self.length.float()]

    def key_positions(self, positions: Tensor) -> Tensor:
        """As in `RotatingKVCache`, for the whole window and the new positions."""
        window = torch.arange(self.context_length, device=positions.device)
        return torch.cat((self.length[:, None] - self.context_length + window, positions), dim=1)

    def update(self, layer: int, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As in `RotatingKVCache`."""
        seen = torch.cat((self.memory[:, layer], torch.stack((k, v), dim=1)), dim=3)  # (B, 2, nkv, W + T, hs)
        self.updated.append(seen[:, :, :, -self.context_length :])
        return seen[:, 0], seen[:, 1]

    def advance(self, tokens: int) -> None:
        """As in `RotatingKVCache`."""
        self.length = self.length + tokens


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the angles by which RoPE rotates each pair of a head's channels at each position."""

    inverse_frequencies: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        # Always on the CPU: on the device "meta", where a checkpoint is checked, `arange` would import sympy.
        pairs = torch.arange(0, config.head_dim, 2, device="cpu").float() / config.head_dim
        self.register_buffer("inverse_frequencies", 1.0 / config.rope_theta**pairs, persistent=False)  # (hs/2,)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (B, T) -> cosines and sines, each (B, 1, T, hs)."""
        angles = positions[:, None, :, None].float() * self.inverse_frequencies  # (B, 1, T, hs/2)
        angles = torch.cat((angles, angles), dim=-1)  # (B, 1, T, hs)
        return angles.cos(), angles.sin()


def apply_rotary_emb(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel i together with channel i + hs/2; x (B, heads, T, hs)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Attention with normed queries and keys, rotary positions and grouped key/value heads.

    It is causal with a cache. Without one, each position sees all others, and query heads cannot share key/value heads.
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.enable_gqa = config.num_attention_heads > config.num_key_value_heads
        q_size, kv_size = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(
        self, x: Tensor, positions: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: AttentionCache | None
    ) -> Tensor:
        """Attend from x to the cache and to x itself.

        Args:
            x: (B, T, C) normed residual stream.
            positions: (B, T).
            rope: Cosines and sines of the positions.
            mask: (B, 1, T, S) which keys each query sees, or None for plain causal attention; None without a cache.
            cache: Keys and values of earlier positions; updated. None for attention in both directions.

        Returns:
            (B, T, C) to add to the residual stream.
        """
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, -1, self.head_dim).to(x.dtype)  # autocast may have lowered the precision,
        k = self.k_proj(x).view(B, T, -1, self.head_dim).to(x.dtype)  # but norms and rotations need that of x
        q, k = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2)  # (B, nh, T, hs), (B, nkv, T, hs)
        v = self.v_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, nkv, T, hs)
        q, k = apply_rotary_emb(q, *rope), apply_rotary_emb(k, *rope)
        if cache is None:  # spelled out, as the fused kernel trains short windows a third more slowly on a CPU
            y = (q * self.head_dim**-0.5 @ k.mT).softmax(dim=-1) @ v  # (B, nh, T, hs)
        else:
            k, v = cache.update(self.layer, positions, k, v)  # (B, nkv, S, hs)
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.enable_gqa
            )  # (B, nh, T, hs)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(B, T, -1))
        return out


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, T, C) to (B, T, C)."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """Attention, then MLP; each reads the normed residual stream x (B, T, C) and adds to it."""

    def __init__(self, config: GPTConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, positions: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: AttentionCache | None
    ) -> Tensor:
        """Map x (B, T, C) to (B, T, C); the other arguments are those of `Attention.forward`."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), positions, rope, mask, cache))
        out: Tensor = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return out


@torch.no_grad()
def init_weights(module: nn.Module) -> None:
    """Initial weights of a module of a transformer, for `nn.Module.apply`.

    Output projections start at zero, as the head of a model should: each block begins as the identity and the first prediction
    is uniform, which keeps the first steps stable at a high learning rate.
    """
    if isinstance(module, nn.Embedding):
        module.weight.normal_(std=0.5)
    elif isinstance(module, nn.Linear):
        module.weight.normal_(std=module.in_features**-0.5)
    elif isinstance(module, Attention):
        module.o_proj.weight.zero_()
    elif isinstance(module, MLP):
        module.down_proj.weight.zero_()


class GPT(CausalLM):
    """Embedding, blocks, final norm, linear head.

    Args:
        config: The sizes.
        dropout: Probability of dropping a channel, in training. It is not part of the config.
    """

    config: GPTConfig

    def __init__(self, config: GPTConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.context_length = config, config.sliding_window
        self.rotary_emb = RotaryEmbedding(config)
        self.dropout = nn.Dropout(dropout)
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(config.vocab_size, config.hidden_size),
                "layers": nn.ModuleList(Block(config, layer, dropout) for layer in range(config.num_hidden_layers)),
                "norm": nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps),
            }
        )
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.apply(init_weights)
        nn.init.zeros_(self.lm_head.weight)

    def init_state(self, rng: Iterator[float]) -> RotatingKVCache:
        """An empty cache."""
        return RotatingKVCache.empty(self.config, 1, like=self.lm_head.weight.detach())

    def forward(self, ids: Tensor, state: AttentionCache | None = None) -> tuple[Tensor, AttentionCache]:
        """Read ids (B, T) -> logits (B, T, V) and the cache, which is updated in place."""
        B, T = ids.shape
        x = self.dropout(self.model["embed_tokens"](ids))  # (B, T, C)
        cache = RotatingKVCache.empty(self.config, B, like=x) if state is None else state
        positions = cache.length[:, None] + torch.arange(T, device=ids.device)  # (B, T)
        rope = self.rotary_emb(positions)
        mask = None  # plain causal attention, which has faster kernels
        if not cache.is_empty or T > self.context_length:
            queries, keys = positions[:, None, :, None], cache.key_positions(positions)[:, None, None, :]
            mask = (keys >= 0) & (keys <= queries) & (keys > queries - self.context_length)  # (B, 1, T, S)
        for block in self.model["layers"].children():
            x = block(x, positions, rope, mask, cache)
        cache.advance(T)
        return self.lm_head(self.model["norm"](x)), cache


def _explain(config: GPTConfig, unit: str) -> str:
    if unit == "token":
        return (
            "A GPT that reads and writes pieces of words. They were found by joining the two neighbors that stand together most "
            "often in the text, again and again, starting with single characters."
        )
    return (
        f"A network that looks back at each of the last {config.sliding_window} {unit}s and decides which of them matter for the "
        "next one. That is called attention."
    )


register(
    ModelFamily(
        name="gpt",
        title="a GPT",
        model_type="qwen3",
        model_class=GPT,
        config_class=GPTConfig,
        task="causal_lm",
        description="A decoder-only transformer in the shape of Qwen3",
        explain=_explain,
        storage_dtype=torch.float16,
        functional_state=FunctionalKVCache,
        make_engine=Engine,
        in_transformers=True,
        has_attention=True,
    )
)
