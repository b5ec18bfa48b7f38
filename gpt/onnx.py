"""Export a GPT as an ONNX graph in a folder, which ONNX Runtime and transformers.js open.

The inputs and outputs have the names that optimum gives them: the caller appends `present` to the cache and hands it in again as
`past_key_values`. The graph masks what is outside the sliding window, so the cache may be longer.

Shapes: B batch, T new tokens, S tokens with those of the cache, C channels, V vocabulary, nh query heads, nkv key/value heads,
hs head size.
"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt.checkpoint import save
from gpt.export import check_is_gpt, check_out, write_errors
from gpt.generation import LanguageModel
from gpt.models.transformer import GPT

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 18, 8  # those of onnx 1.13, so that older runtimes open it, too
MASKED = np.float32(np.finfo(np.float32).min)


def export_onnx(lm: LanguageModel, out: Path) -> None:
    """Write a GPT as a folder: onnx/model.onnx in float32, config and tokenizer. The folder appears complete or not at all.

    Args:
        lm: The model.
        out: The folder, which must not exist.

    Raises:
        ValueError: If the model cannot be exported, `out` exists or cannot be written, or the package onnx is not installed.
    """
    check_out(out, "")
    model = check_is_gpt(lm)
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ValueError("ONNX needs the package onnx; install it with `pip install onnx`") from None
    content = _to_onnx(model).SerializeToString()
    with write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=out.parent) as staging_dir:
            folder = Path(staging_dir) / "model"
            save(folder, lm.model, lm.tokenizer)
            (folder / "model.safetensors").unlink()
            config = lm.model.config.to_dict() | {"transformers.js_config": {"dtype": "fp32"}}
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            (folder / "onnx").mkdir()
            (folder / "onnx" / "model.onnx").write_bytes(content)
            folder.rename(out)


class _Graph:
    """A graph under construction. Values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def op(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        output = output or f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def constant(self, value: Any, name: str | None = None) -> str:
        """Add a constant and return its name."""
        from onnx import numpy_helper

        name = name or f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _to_onnx(model: GPT) -> "onnx.ModelProto":
    from onnx import TensorProto, helper

    config, graph = model.config, _Graph()
    op, constant = graph.op, graph.constant
    nh, nkv, hs = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    weights = {name: tensor.float().cpu().numpy() for name, tensor in model.state_dict().items()}

    def linear(x: str, name: str) -> str:
        return op("MatMul", x, constant(np.ascontiguousarray(weights[f"{name}.weight"].T), name))

    def rms_norm(x: str, name: str) -> str:
        mean = op("ReduceMean", op("Mul", x, x), last_axis, keepdims=1)
        scale = op("Reciprocal", op("Sqrt", op("Add", mean, epsilon)))
        return op("Mul", op("Mul", x, scale), constant(weights[f"{name}.weight"], name))

    def rotate(x: str) -> str:
        first, second = op("Slice", x, zero, half, last_axis), op("Slice", x, half, whole, last_axis)
        swapped = op("Concat", op("Neg", second), first, axis=-1)
        return op("Add", op("Mul", x, cos), op("Mul", swapped, sin))

    def heads(x: str, count: int) -> str:
        return op("Reshape", x, constant(np.array([0, 0, count, hs])))  # (B, T, heads, hs)

    zero, half, whole = (constant(np.array([size])) for size in (0, hs // 2, hs))
    last_axis, epsilon = constant(np.array([-1])), constant(np.float32(config.rms_norm_eps))

    # Which keys each query sees: those that are no padding, not later, and inside the window.
    key_positions = op("Sub", op("CumSum", "attention_mask", constant(np.array(1))), constant(np.array(1)))  # (B, S)
    keys = op("Unsqueeze", key_positions, constant(np.array([1, 2])))  # (B, 1, 1, S)
    queries = op("Unsqueeze", "position_ids", constant(np.array([1, 3])))  # (B, 1, T, 1)
    distance = op("Sub", queries, keys)
    is_inside = op("Less", distance, constant(np.array(config.sliding_window)))
    is_seen = op("And", op("GreaterOrEqual", distance, constant(np.array(0))), is_inside)
    is_token = op("Cast", op("Unsqueeze", "attention_mask", constant(np.array([1, 2]))), to=TensorProto.BOOL)
    bias = op("Where", op("And", is_seen, is_token), constant(np.float32(0)), constant(MASKED))  # (B, 1, T, S)

    frequencies = constant(model.rotary_emb.inverse_frequencies.cpu().numpy())
    angles = op("Mul", op("Cast", queries, to=TensorProto.FLOAT), frequencies)  # (B, 1, T, hs/2)
    angles = op("Concat", angles, angles, axis=-1)
    cos, sin = op("Cos", angles), op("Sin", angles)

    x = op("Gather", constant(weights["model.embed_tokens.weight"], "model.embed_tokens"), "input_ids")  # (B, T, C)
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        normed = rms_norm(x, f"{name}.input_layernorm")
        q, k, v = (
            heads(linear(normed, f"{name}.self_attn.{part}_proj"), count) for part, count in (("q", nh), ("k", nkv), ("v", nkv))
        )
        q, k = rms_norm(q, f"{name}.self_attn.q_norm"), rms_norm(k, f"{name}.self_attn.k_norm")
        q, k, v = (op("Transpose", tensor, perm=[0, 2, 1, 3]) for tensor in (q, k, v))
        new = {"key": rotate(k), "value": v}
        k, v = (
            op("Concat", f"past_key_values.{layer}.{part}", tensor, axis=2, output=f"present.{layer}.{part}")
            for part, tensor in new.items()
        )  # (B, nkv, S, hs)
        q = op("Mul", rotate(q), constant(np.float32(hs**-0.5)))
        if nh > nkv:  # query heads of a group share keys: (B, nkv, nh / nkv, T, hs) with (B, nkv, 1, S, hs)
            q = op("Reshape", q, constant(np.array([0, nkv, nh // nkv, -1, hs])))
            k, v = (op("Unsqueeze", tensor, constant(np.array([2]))) for tensor in (k, v))
        scores = op("MatMul", q, op("Transpose", k, perm=[0, 1, 3, 2] if nh == nkv else [0, 1, 2, 4, 3]))
        mask = bias if nh == nkv else op("Unsqueeze", bias, constant(np.array([1])))
        y = op("MatMul", op("Softmax", op("Add", scores, mask), axis=-1), v)
        y = op("Reshape", y, constant(np.array([0, nh, -1, hs])))
        y = op("Reshape", op("Transpose", y, perm=[0, 2, 1, 3]), constant(np.array([0, 0, nh * hs])))
        x = op("Add", x, linear(y, f"{name}.self_attn.o_proj"))
        normed = rms_norm(x, f"{name}.post_attention_layernorm")
        gate = linear(normed, f"{name}.mlp.gate_proj")
        hidden = op("Mul", op("Mul", gate, op("Sigmoid", gate)), linear(normed, f"{name}.mlp.up_proj"))
        x = op("Add", x, linear(hidden, f"{name}.mlp.down_proj"))
    op(
        "MatMul",
        rms_norm(x, "model.norm"),
        constant(np.ascontiguousarray(weights["lm_head.weight"].T), "lm_head"),
        output="logits",
    )

    batch, new_tokens, past, total = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"
    cache = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]
    integer, real, info = TensorProto.INT64, TensorProto.FLOAT, helper.make_tensor_value_info
    inputs = [
        info("input_ids", integer, [batch, new_tokens]),
        info("attention_mask", integer, [batch, total]),
        info("position_ids", integer, [batch, new_tokens]),
        *(info(f"past_key_values.{name}", real, [batch, nkv, past, hs]) for name in cache),
    ]
    outputs = [
        info("logits", real, [batch, new_tokens, config.vocab_size]),
        *(info(f"present.{name}", real, [batch, nkv, total, hs]) for name in cache),
    ]
    return helper.make_model(
        helper.make_graph(graph.nodes, "gpt", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="from-bigram-to-gpt",
    )
