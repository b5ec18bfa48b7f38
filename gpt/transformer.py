"""GPT: a decoder-only transformer in the shape, and with the parameter names, of Qwen3.

RMSNorm (Zhang & Sennrich 2019) before each part, rotary positions (RoPE, Su et al. 2021), attention with normed
queries and keys, grouped key/value heads (Ainslie et al. 2023), SwiGLU (Shazeer 2020), no biases; Qwen3 report (2025).
Attention slides: a position sees itself and the `sliding_window - 1` positions before it, so that a text of any
length costs the same for every token. transformers' `Qwen3ForCausalLM` opens the same folder and gives the same logits.

Shapes: B batch, T time, C channels (hidden_size), V vocabulary, L layers, nh query heads, nkv key/value heads,
hs head size, W sliding window.
"""

from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt.model import CausalModel, end_token

# What a config.json may ask for at most, so that a mistyped size is refused at once. Every other size: 2**18.
LARGEST = {"num_hidden_layers": 1_000, "sliding_window": 2**15, "rope_theta": 1e12, "rms_norm_eps": 1}


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT, under the names that Qwen3's config.json gives them.

    Raises ValueError for sizes that are out of range or do not fit together.
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
        end_token(self.eos_token_id, self.vocab_size)
        for name, value in self._sizes().items():
            most = LARGEST.get(name, 2**18)
            if not 0 < value <= most:
                raise ValueError(f"{name} is {value!r}; it must be above 0 and at most {most:,}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads cannot share {self.num_key_value_heads} key/value heads; "
                "the first must be a multiple of the second"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary positions turn pairs of numbers, so it must be even")

    def to_json(self) -> dict[str, Any]:
        """The config.json that transformers' `Qwen3Config` reads."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "dtype": "float32",  # to compute in, whatever the weights are stored in
            **{name: value for name, value in self._sizes().items() if name != "rope_theta"},
            **self._fixed(self.num_hidden_layers),
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            # Rotary positions have no end, and the window keeps the cost of each the same: room for long texts.
            "max_position_embeddings": 131_072,
            "bos_token_id": None,
            "eos_token_id": self.eos_token_id,
            "use_cache": True,
        }

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "GPTConfig":
        """The inverse of `to_json`. Raises ValueError if a key is missing, or asks for what this GPT does not do."""
        rope = config.get("rope_parameters")
        if not isinstance(rope, dict) or rope.get("rope_type") != "default":
            raise ValueError(f"rope_parameters is {rope!r}; this GPT has rope_type 'default'")
        sizes: dict[str, Any] = {name: config.get(name) for name in cls.__dataclass_fields__ if name != "eos_token_id"}
        sizes["rope_theta"] = rope.get("rope_theta")
        for name, value in sizes.items():
            is_real = cls.__dataclass_fields__[name].type is float
            if type(value) not in ((int, float) if is_real else (int,)):
                raise ValueError(f"{name} is {value!r}; it must be a {'' if is_real else 'whole '}number")
        made = cls(**sizes, eos_token_id=config.get("eos_token_id"))
        for name, here in cls._fixed(made.num_hidden_layers).items():
            if config.get(name) != here:
                raise ValueError(f"{name} is {config.get(name)!r}; this GPT has {here!r}")
        return made

    def _sizes(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "eos_token_id"}

    @staticmethod
    def _fixed(layers: int) -> dict[str, Any]:
        """What Qwen3's config can say otherwise and this model cannot."""
        return {
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": False,
            "use_sliding_window": True,
            "max_window_layers": 0,
            "layer_types": ["sliding_attention"] * layers,
        }


class KVCache:
    """What a GPT remembers of each row: the keys and values of the last W positions, in every layer.

    Position p lies in slot p % W, so a new position overwrites the oldest and nothing is ever moved. Rows may have
    read different numbers of tokens. Made for one request and handed to `forward`, which fills it in place.
    """

    def __init__(self, config: GPTConfig, rows: int, like: Tensor) -> None:
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, config.sliding_window, config.head_dim)
        self.window = config.sliding_window
        self.keys = like.new_zeros(shape)  # (L, B, nkv, W, hs), of `like`'s dtype and device
        self.values = like.new_zeros(shape)
        self.length = torch.zeros(rows, dtype=torch.long, device=like.device)  # (B,) tokens read so far
        self.is_empty = True
        self.whole: tuple[KVCache, int] | None = None  # the batch that this row was split from, and its place there

    @classmethod
    def stack(cls, caches: "list[KVCache]") -> "KVCache":
        """The rows of several caches as the batch of one; nothing is copied if they are all the rows of one already."""
        first = caches[0].whole
        if first and len(first[0].length) == len(caches) and all(c.whole == (first[0], i) for i, c in enumerate(caches)):
            return first[0]
        stacked = cls.__new__(cls)
        stacked.window, stacked.whole = caches[0].window, None
        stacked.keys = torch.cat([cache.keys for cache in caches], dim=1)
        stacked.values = torch.cat([cache.values for cache in caches], dim=1)
        stacked.length = torch.cat([cache.length for cache in caches])
        stacked.is_empty = all(cache.is_empty for cache in caches)
        return stacked

    def split(self) -> "list[KVCache]":
        """Its rows, each a cache of one row, in the same memory."""
        rows = [copy(self) for _ in self.length]
        for i, row in enumerate(rows):
            row.keys, row.values, row.length = self.keys[:, i : i + 1], self.values[:, i : i + 1], self.length[i : i + 1]
            row.whole = self, i
        return rows

    def key_positions(self, positions: Tensor) -> Tensor:
        """(B, S): the position of every key that `extend` will return, below 0 for an empty slot."""
        if self.is_empty:
            return positions
        last = positions[:, -1:] if positions.shape[1] == 1 else self.length[:, None] - 1
        slots = last - (last - torch.arange(self.window, device=last.device)) % self.window  # (B, W)
        return slots if positions.shape[1] == 1 else torch.cat((slots, positions), dim=1)

    def extend(self, layer: int, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Remember k and v (B, nkv, T, hs) of `positions` (B, T); return the keys and values (B, nkv, S, hs) to attend to."""
        if self.is_empty:
            keys, values = k, v
        elif positions.shape[1] > 1:  # several new ones: the first still need what the last will overwrite
            keys, values = torch.cat((self.keys[layer], k), dim=2), torch.cat((self.values[layer], v), dim=2)
        else:
            keys, values = self.keys[layer], self.values[layer]  # views, which see what is written below
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        slots = positions[:, -self.window :] % self.window
        self.keys[layer][rows, :, slots] = k.detach()[:, :, -self.window :].transpose(1, 2).to(self.keys.dtype)
        self.values[layer][rows, :, slots] = v.detach()[:, :, -self.window :].transpose(1, 2).to(self.values.dtype)
        return keys, values

    def advance(self, tokens: int) -> None:
        """Count tokens that every layer has now seen."""
        self.length += tokens
        self.is_empty = False


class Rotary(nn.Module):
    """The angles by which RoPE turns each pair of a head's numbers at each position, as cosines and sines."""

    inverse_frequencies: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        # On the CPU also where shapes alone are wanted: on the device "meta", this would import sympy (`checkpoint.Unfilled`).
        pairs = torch.arange(0, config.head_dim, 2, device="cpu").float() / config.head_dim
        self.register_buffer("inverse_frequencies", 1.0 / config.rope_theta**pairs, persistent=False)  # (hs/2,)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (B, T) -> cosines and sines, each (B, 1, T, hs)."""
        angles = positions[:, None, :, None].float() * self.inverse_frequencies  # (B, 1, T, hs/2)
        angles = torch.cat((angles, angles), dim=-1)  # (B, 1, T, hs)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn number i together with number i + hs/2; x (B, heads, T, hs)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Every position gathers the values (B, T, C) of those before it, weighted by how well query and key agree."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.shares_keys = config.num_attention_heads > config.num_key_value_heads
        q_size, kv_size = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, positions: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache) -> Tensor:
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, -1, self.head_dim).to(x.dtype)  # autocast may have lowered the precision,
        k = self.k_proj(x).view(B, T, -1, self.head_dim).to(x.dtype)  # which norms and angles should not have
        q, k = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2)  # (B, nh, T, hs), (B, nkv, T, hs)
        v = self.v_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, nkv, T, hs)
        k, v = cache.extend(self.layer, positions, rotate(k, *turn), v)  # (B, nkv, S, hs)
        y = F.scaled_dot_product_attention(
            rotate(q, *turn), k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.shares_keys
        )  # (B, nh, T, hs)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """SwiGLU: one projection decides how much of the other passes."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """First look around (attention), then think (MLP); each adds to the stream x (B, T, C)."""

    def __init__(self, config: GPTConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *where: Any) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), *where))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class GPT(CausalModel):
    """`forward(ids (B, T), state) -> logits (B, T, V), state`; the state is a KVCache, or None to start a text.

    dropout is for training alone and is no part of the config.
    """

    config: GPTConfig

    def __init__(self, config: GPTConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.window = config, config.sliding_window
        self.rotary = Rotary(config)
        self.dropout = nn.Dropout(dropout)
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(config.vocab_size, config.hidden_size),
                "layers": nn.ModuleList(Block(config, layer, dropout) for layer in range(config.num_hidden_layers)),
                "norm": nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps),
            }
        )
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.apply(self._start)

    @torch.no_grad()
    def _start(self, module: nn.Module) -> None:
        # What adds to the stream and what reads it out start at zero: every block begins as the identity and the
        # first prediction is uniform, so that the first steps are calm at a high learning rate.
        if isinstance(module, nn.Embedding):
            module.weight.normal_(std=0.5)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)
        elif isinstance(module, Attention):
            module.o_proj.weight.zero_()
        elif isinstance(module, MLP):
            module.down_proj.weight.zero_()
        elif isinstance(module, GPT):
            module.lm_head.weight.zero_()

    def forward(self, ids: Tensor, state: KVCache | None = None) -> tuple[Tensor, KVCache]:
        B, T = ids.shape
        x = self.dropout(self.model["embed_tokens"](ids))  # (B, T, C)
        cache = KVCache(self.config, B, like=x) if state is None else state
        positions = cache.length[:, None] + torch.arange(T, device=ids.device)  # (B, T)
        turn = self.rotary(positions)
        mask = None  # plain causal attention, for which there are faster kernels
        if not cache.is_empty or T > self.window:
            queries, keys = positions[:, None, :, None], cache.key_positions(positions)[:, None, None, :]
            mask = (keys >= 0) & (keys <= queries) & (keys > queries - self.window)  # (B, 1, T, S)
        for block in self.model["layers"].children():
            x = block(x, positions, turn, mask, cache)
        cache.advance(T)
        return self.lm_head(self.model["norm"](x)), cache
