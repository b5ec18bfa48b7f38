import base64
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sampling_vectors
import torch

from gpt.distribution import encode_distribution, quantize_bits, quantize_top

ROOT = Path(__file__).resolve().parents[1]


def uint16(data: bytes) -> list[int]:
    return np.frombuffer(data, "<u2").tolist()


def test_bits_of_a_distribution_worked_by_hand():
    # -log2 of 1/2, 1/4, 1/8, 1/8 is 1, 2, 3, 3 bits, in steps of 1/1024 bit
    assert uint16(quantize_bits(torch.tensor([0.5, 0.25, 0.125, 0.125]).log())) == [1024, 2048, 3072, 3072]
    assert uint16(quantize_bits(torch.tensor([7.0, 7.0]))) == [1024, 1024]  # logits need no normalization
    assert quantize_bits(torch.tensor([0.5, 0.5]).log()) == b"\x00\x04\x00\x04"  # little-endian


def test_bits_are_capped():
    nats = torch.tensor([0.0, -63.5, -64, -1e6, -math.inf]) * math.log(2)
    assert uint16(quantize_bits(nats)) == [0, 65024, 65535, 65535, 65535]


def test_the_likeliest_of_a_large_vocabulary_worked_by_hand():
    # 1/4, 1/8, 1/2 and 256 tokens that share the last 1/8: 2, 3 and 1 bits, and 3 bits for the rest
    probs = torch.tensor([0.25, 0.125, 0.5] + [1 / 8 / 256] * 256, dtype=torch.float64)
    data = quantize_top(probs.log(), n=3)
    assert np.frombuffer(data[:12], "<u4").tolist() == [2, 0, 1]
    assert uint16(data[12:]) == [1024, 2048, 3072, 3072]


def test_equal_tokens_are_in_the_order_of_their_ids_and_an_impossible_rest_is_capped():
    data = quantize_top(torch.tensor([-math.inf, 0.0, -math.inf, 0.0]), n=2)
    assert np.frombuffer(data[:8], "<u4").tolist() == [1, 3]
    assert uint16(data[8:]) == [1024, 1024, 65535]


@pytest.mark.parametrize(("size", "length"), [(65, 130), (256, 512), (257, 386), (2**17, 386)])
def test_the_vocabulary_chooses_the_encoding(size, length):
    logits = torch.randn(3, size, generator=torch.Generator().manual_seed(0))
    together = encode_distribution(logits)
    assert len(together) == 3 * length
    assert together == b"".join(map(encode_distribution, logits))


def test_error_is_as_documented():
    logits = torch.randn(50, 65, generator=torch.Generator().manual_seed(0)) * 5
    probs = torch.from_numpy(2.0 ** -(np.frombuffer(encode_distribution(logits), "<u2") / 1024)).view(50, 65)
    relative = probs / logits.double().softmax(-1) - 1
    assert 0.0003 < relative.abs().max() < 0.00034


def test_sampling_vectors_are_up_to_date():
    stored = json.loads(sampling_vectors.PATH.read_text())
    vectors = sampling_vectors.vectors()
    assert [(v["bits"], v["params"]) for v in stored] == [(v["bits"], v["params"]) for v in vectors]
    for old, new in zip(stored, vectors, strict=True):
        assert old["probs"] == pytest.approx(new["probs"], abs=1e-12), new["params"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.parametrize("size", [65, 300])
def test_the_page_decodes_what_is_encoded(size):
    logits = torch.randn(2, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[1, 5] = -math.inf
    script = f"""
        import {{ decodeSteps }} from "./ui/static/js/codec.js";
        const steps = decodeSteps("{base64.b64encode(encode_distribution(logits)).decode()}", 2, {size});
        const numbers = (list) => list && Array.from(list, (x) => (x === Infinity ? 99 : x));
        console.log(JSON.stringify(steps.map(({{ ids, bits, rest }}) => ({{ ids: numbers(ids), bits: numbers(bits), rest }}))));
    """
    command = ["node", "--input-type=module", "--eval", script]
    steps = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    bits = -logits.log_softmax(-1) / math.log(2)
    bits[1, 5] = 99
    for step, expected in zip(steps, bits, strict=True):
        if size == 65:
            assert step["ids"] is None
            assert step["rest"] is None
        else:
            ordered = expected.sort()
            assert step["ids"] == ordered.indices[:64].tolist()
            assert step["rest"] == pytest.approx(-math.log2((2 ** -ordered.values[64:]).sum()), abs=1 / 2048)
            expected = ordered.values[:64]
        assert step["bits"] == pytest.approx(expected.tolist(), abs=1 / 2048)
