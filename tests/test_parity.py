"""Parity with transformers: Qwen3, its tokenizers and its sampling filters, on the folders that `save` writes."""

import json

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpt import LanguageModel, SamplingParams, Tokenizer, load
from gpt.checkpoint import WEIGHTS, save
from gpt.sampling import sampling_probs
from train.counting import fit_bigram
from train.data import load_dataset
from train.evaluate import evaluate
from train.tokenizers import tokenize

SHIPPED = WEIGHTS / "gpt-shakespeare"
W = 16  # sliding window of the tiny models
SHAPES = {
    "a key head for each query head": {},
    "grouped keys": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    "heads wider than the model": {"num_attention_heads": 3, "num_key_value_heads": 1},
}


@pytest.fixture(params=SHAPES)
def pair(request, make_gpt, tokenizer, tmp_path):
    """One folder, opened by this package and by transformers."""
    save(tmp_path / "tiny", make_gpt(vocab_size=len(tokenizer), **SHAPES[request.param]), tokenizer)
    return load(tmp_path / "tiny"), AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")


@pytest.fixture(scope="module")
def shipped():
    return load(SHIPPED), AutoModelForCausalLM.from_pretrained(SHIPPED)


def random_ids(lm: LanguageModel, length: int) -> torch.Tensor:
    return torch.randint(len(lm.tokenizer), (1, length), generator=torch.Generator().manual_seed(0))


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@torch.no_grad()
def assert_same_logits(lm, hf, ids):
    """Without a cache, in chunks, and token by token, each with and without their cache."""
    length = ids.shape[1]
    theirs = hf(ids, use_cache=False).logits
    assert theirs.std() > 0.5
    assert_close(lm.model(ids)[0], theirs)
    state = None
    lengths = [length // 2, 1, length - length // 2 - 1]
    for chunk, expected in zip(ids.split(lengths, 1), theirs.split(lengths, 1), strict=True):
        logits, state = lm.model(chunk, state)
        assert_close(logits, expected)
    state = cache = None
    for token, expected in zip(ids.split(1, 1), theirs.split(1, 1), strict=True):
        logits, state = lm.model(token, state)
        out = hf(token, cache=cache, use_cache=True)
        cache = out.cache
        assert_close(logits, expected)
        assert_close(logits, out.logits)


def assert_same_greedy_text(lm, hf, prompt, length):
    ids = torch.tensor([lm.tokenizer.encode(prompt).ids])
    theirs = hf.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length)
    ours = lm.generate(prompt, SamplingParams(temperature=0, max_new_tokens=length))
    assert len(ours.text) == length
    assert ours.text == lm.tokenizer.decode(theirs[0, ids.shape[1] :].tolist())


def test_folder_opens_as_qwen3_with_nothing_missing(folder):
    hf, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(hf).__name__ == "Qwen3ForCausalLM"
    assert not any(report.values())
    ours = load(folder).model.state_dict()
    theirs = hf.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("length", [5, W, W + 1, 4 * W + 3])
def test_logits_are_the_same_within_and_beyond_the_window(pair, length):
    assert_same_logits(*pair, random_ids(pair[0], length))


def test_greedy_text_is_the_same(pair):
    assert_same_greedy_text(*pair, "The old clock", 100)


@torch.no_grad()
def test_logits_of_a_batch_are_the_same(pair):
    lm, hf = pair
    ids = torch.randint(len(lm.tokenizer), (3, 2 * W + 1), generator=torch.Generator().manual_seed(1))
    assert_close(lm.model(ids)[0], hf(ids).logits)


@pytest.mark.slow
@torch.no_grad()
def test_logits_of_the_shipped_gpt_are_the_same(shipped):
    lm, hf = shipped
    ids, window = random_ids(lm, 4 * lm.context_length + 3), lm.context_length
    theirs = hf(ids, use_cache=False).logits
    assert_close(lm.model(ids)[0], theirs)
    state, logits = None, []
    for chunk in ids.split([window + 9, 1, 1, 3 * window - 8], dim=1):
        chunk_logits, state = lm.model(chunk, state)
        logits.append(chunk_logits)
    assert_close(torch.cat(logits, dim=1), theirs)


@pytest.mark.slow
def test_greedy_text_of_the_shipped_gpt_is_the_same(shipped):
    assert_same_greedy_text(*shipped, "ROMEO:", 300)


# Figures of the shipped models


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt-shakespeare", "bpe-shakespeare", "bigram-shakespeare"])
def test_shipped_model_has_the_held_out_loss_of_its_training_json(name):
    lm, recorded = load(WEIGHTS / name), json.loads((WEIGHTS / name / "training.json").read_text(encoding="utf-8"))
    tokenized = tokenize(load_dataset("shakespeare"), recorded["tokenizer"])
    assert lm.tokenizer.files() == tokenized.tokenizer.files()
    result = evaluate(lm.model, tokenized.held_out, tokenized.held_out_text)
    assert result.nats_per_token == pytest.approx(recorded["held_out"]["nats_per_token"], abs=1e-4)
    assert result.bits_per_character == pytest.approx(recorded["held_out"]["bits_per_character"], abs=1e-4)
    assert result.bits_per_byte == result.bits_per_character  # the text is ASCII
    assert result.tokens == recorded["held_out"]["tokens"]


@pytest.mark.slow
def test_shipped_bigram_is_the_counted_one():
    model, facts = fit_bigram(tokenize(load_dataset("shakespeare")))
    assert facts["k"] == json.loads((WEIGHTS / "bigram-shakespeare" / "training.json").read_text(encoding="utf-8"))["k"]
    torch.testing.assert_close(load(WEIGHTS / "bigram-shakespeare").model.logits, model.logits)


# Tokenizers


@pytest.fixture
def their_tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def test_tokenizer_gives_the_same_ids_and_text(their_tokenizer, tokenizer, text):
    for piece in (text, "\n", "\n\n", "  ", " \n  a", *sorted(set(text)), *text.split()):
        ids = tokenizer.encode(piece).ids
        assert their_tokenizer(piece).input_ids == ids
        assert their_tokenizer.decode(ids) == piece
        assert their_tokenizer.decode(ids, skip_special_tokens=True) == piece


def test_tokenizer_skips_the_same_characters(their_tokenizer, tokenizer):
    for piece in ("Bo~th~", "~", "日本 the é clock", "a\u0301b", "👍🏽 ok"):
        assert their_tokenizer(piece).input_ids == tokenizer.encode(piece).ids


def test_tokenizer_of_any_script_keeps_the_text(tmp_path, make_gpt):
    script = "ünïcödé 日本語\r\n\t👍🏽 e\u0301  <|x|> </s> ▁ Ġ ##a"
    tokenizer = Tokenizer.from_text(script)
    save(tmp_path / "script", make_gpt(vocab_size=len(tokenizer)), tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "script")
    assert theirs(script).input_ids == tokenizer.encode(script).ids
    assert theirs.decode(theirs(script).input_ids) == script


def with_end(bpe):
    """With a special token, as GPT-2 has one."""
    tokenizer = Tokenizer.from_json(bpe.files()["tokenizer.json"])
    tokenizer.backend.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(tokenizer.backend)


@pytest.mark.parametrize("make", [lambda bpe: bpe, with_end])
def test_byte_level_tokens_are_the_same(bpe, make, text, tmp_path, make_gpt):
    tokenizer = make(bpe)
    save(tmp_path / "pieces", make_gpt(vocab_size=len(tokenizer)), tokenizer)
    theirs, lm = AutoTokenizer.from_pretrained(tmp_path / "pieces"), load(tmp_path / "pieces")
    odd = [
        "  two  spaces ",
        " the",
        "the",
        "\n\n",
        "日本語 👨\u200d👩 e\u0301",
        "\ufffd\0\r\t",
        "<|endoftext|> <|endoftext|>",
        "don't . , ?",
    ]
    for piece in (text, *odd):
        ids = lm.tokenizer.encode(piece).ids
        assert theirs(piece).input_ids == ids
        assert theirs.decode(ids) == lm.tokenizer.decode(ids) == piece
    for i in range(len(tokenizer)):  # parts of a character, too
        assert theirs.decode([i]) == lm.tokenizer.decode([i])


@pytest.mark.slow
def test_greedy_text_of_byte_level_tokens_is_the_same(bpe, make_gpt, tmp_path):
    save(tmp_path / "pieces", make_gpt(vocab_size=len(bpe)), bpe)
    lm, hf = load(tmp_path / "pieces"), AutoModelForCausalLM.from_pretrained(tmp_path / "pieces")
    ids = torch.tensor([bpe.encode("The old clock").ids])
    theirs = hf.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=200)
    ours = lm.generate("The old clock", SamplingParams(temperature=0, max_new_tokens=200))
    assert ours.token_ids == theirs[0, ids.shape[1] :].tolist()


def test_pipeline_of_the_card_generates(folder):
    pipeline = transformers.pipeline("text-generation", str(folder))
    for prompt in ("The old", "\n"):
        (output,) = pipeline(prompt, max_new_tokens=20)
        assert output["generated_text"].startswith(prompt)
        assert len(output["generated_text"]) == len(prompt) + 20


# Sampling


def test_sampling_filters_are_those_of_transformers():
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    kept = set()
    for _ in range(300):
        vocab = int(uniform(2, 80))
        logits = torch.randn(1, vocab, generator=generator, dtype=torch.float64) * uniform(0.1, 6)
        params = SamplingParams(uniform(0.05, 5), int(uniform(1, 100)), uniform(0.01, 1), uniform(0, 0.3))
        scores = logits
        for warp in (
            transformers.TemperatureLogitsWarper(params.temperature),
            transformers.TopKLogitsWarper(params.top_k),
            transformers.TopPLogitsWarper(params.top_p),
            transformers.MinPLogitsWarper(params.min_p),
        ):
            scores = warp(None, scores)
        ours = sampling_probs(logits, params)
        assert torch.equal(ours > 0, scores.isfinite())
        torch.testing.assert_close(ours, scores.softmax(-1))
        kept.add(int((ours > 0).sum()))
    assert len(kept) > 15  # different numbers of tokens were kept
