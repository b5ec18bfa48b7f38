"""Export a GPT as a GGUF file, which llama.cpp and the programs built on it open.

The weights are written in float32: with float16 weights llama.cpp would round the activations, too. Its Qwen3 has no sliding
window. Its Step-3.5 is the same network with one, so the file names that architecture (and no experts, which it could have).
"""

import json
import tempfile
from pathlib import Path

import torch
from tokenizers import pre_tokenizers

from gpt.checkpoint import atomic_write
from gpt.export import check_is_gpt, check_out, write_errors
from gpt.generation import LanguageModel
from gpt.models.transformer import GPTConfig
from gpt.tokenizer import Tokenizer

END = "<|endoftext|>"
LAYER_TENSORS = {  # GGUF's name: Qwen3's name
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def export_gguf(lm: LanguageModel, out: Path) -> None:
    """Write a GPT as a GGUF file. The file appears complete or not at all.

    Args:
        lm: The model.
        out: The file, which must not exist.

    Raises:
        ValueError: If the model cannot be exported, `out` is no name for a new .gguf file or cannot be written, or the package
            gguf is not installed.
    """
    check_out(out, ".gguf")
    content = _to_gguf(lm, check_is_gpt(lm).config)
    with write_errors(out):
        atomic_write(out, content)


def _to_gguf(lm: LanguageModel, config: GPTConfig) -> bytes:
    """The content of a GGUF file.

    llama.cpp's tokenizers have an end token. If the model has none, `END` is added, with the mean of the other logits as its
    logit: it is never the likeliest token, and rare in sampled text. llama.cpp's `--ignore-eos` leaves it out.

    Raises:
        ValueError: If llama.cpp has no tokenizer like that of the model.
    """
    try:
        import gguf
    except ImportError:
        raise ValueError("GGUF needs the package gguf; install it with `pip install gguf`") from None

    tokens, merges = _byte_level_bpe(lm.tokenizer)
    types = [gguf.TokenType.NORMAL] * len(tokens)
    for i in lm.tokenizer.backend.get_added_tokens_decoder():
        types[i] = gguf.TokenType.USER_DEFINED
    weights = {name: tensor.float().cpu() for name, tensor in lm.model.state_dict().items()}
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    end = config.eos_token_id
    if end is None and END in tokens:
        end = tokens.index(END)
    elif end is None:
        end, tokens, types = len(tokens), [*tokens, END], [*types, gguf.TokenType.CONTROL]
        embedding, head = (torch.cat((matrix, matrix.mean(0, keepdim=True))) for matrix in (embedding, head))
    tensors = {
        "token_embd.weight": embedding,
        "output_norm.weight": weights["model.norm.weight"],
        "output.weight": head,
    } | {
        f"blk.{layer}.{theirs}.weight": weights[f"model.layers.{layer}.{ours}.weight"]
        for layer in range(config.num_hidden_layers)
        for theirs, ours in LAYER_TENSORS.items()
    }
    with tempfile.TemporaryDirectory() as folder:  # the writer needs a path
        path = Path(folder) / "model.gguf"
        writer = gguf.GGUFWriter(path, "step35")
        writer.add_name(lm.name)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        writer.add_vocab_size(len(tokens))
        writer.add_context_length(config.to_dict()["max_position_embeddings"])
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_expert_feed_forward_length(0)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_rope_freq_base_swa(config.rope_theta)
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([True] * config.num_hidden_layers)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges(merges)
        writer.add_eos_token_id(end)
        writer.add_bos_token_id(lm.tokenizer.start_id)
        writer.add_add_bos_token(config.eos_token_id is not None)  # a document starts after a newline
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _byte_level_bpe(tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """The tokens, in order, and the merges of GPT-2's kind of tokenizer that gives the same ids.

    Raises:
        ValueError: If there is none.
    """
    tokens = sorted(tokenizer.vocab, key=tokenizer.vocab.__getitem__)
    if tokenizer.unit == "character":  # one token for each: its bytes are merged from left to right
        tokens = list(map(_byte_letters, tokens))
        merges = dict.fromkeys(f"{token[:i]} {token[i]}" for token in tokens for i in range(1, len(token)))
        return tokens, list(merges) or ["ÿ ÿ"]  # llama.cpp needs one; bytes of 255 are not in UTF-8
    content = json.loads(tokenizer.backend.to_str())
    pre_tokenizer = content["pre_tokenizer"] or {}
    is_gpt2 = pre_tokenizer.get("type") == "ByteLevel" and pre_tokenizer["use_regex"] and not pre_tokenizer["add_prefix_space"]
    if not (tokenizer.is_byte_level and is_gpt2 and content["normalizer"] is None and content["model"]["type"] == "BPE"):
        raise ValueError("a GGUF file needs a tokenizer of characters, or one of GPT-2's kind; export it with --format pt2")
    return tokens, [" ".join(merge) for merge in content["model"]["merges"]]


def _byte_letters(text: str) -> str:
    """The letters that stand for the bytes of a character in a byte-level vocabulary, as in GPT-2."""
    ((letters, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return letters
