"""Against a reference that is not ours: transformers' Qwen3 and its tokenizers, on the folders that `save` writes."""

import json
import math

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpt import LanguageModel, SamplingParams, Tokenizer, load
from gpt.checkpoint import WEIGHTS, save
from gpt.sampling import sampling_probs
from train import data as texts
from train.evaluate import evaluate
from train.runs import WINDOW, TokenizedDataset, fit_bigram

SHIPPED = WEIGHTS / "gpt-shakespeare"
W = 16  # the window of the tiny models
SHAPES = {
    "a pair of keys for each head": {},
    "shared keys": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    "heads wider than the model": {"num_attention_heads": 3, "num_key_value_heads": 1},
}


@pytest.fixture(params=SHAPES)
def pair(request, make_gpt, tokenizer, tmp_path):
    """One folder, opened here and there."""
    save(tmp_path / "tiny", make_gpt(vocab_size=len(tokenizer), **SHAPES[request.param]), tokenizer)
    return load(tmp_path / "tiny"), AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")


@pytest.fixture(scope="module")
def shipped():
    return load(SHIPPED), AutoModelForCausalLM.from_pretrained(SHIPPED)


def random_ids(lm: LanguageModel, length: int) -> torch.Tensor:
    return torch.randint(len(lm.tokenizer), (1, length), generator=torch.Generator().manual_seed(0))


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@torch.no_grad()
def check_logits(lm, hf, length):
    """At every position, with a cache and without, read at once, in pieces and one by one."""
    ids = random_ids(lm, length)
    theirs = hf(ids, use_cache=False).logits
    assert theirs.std() > 0.5
    same(lm.model(ids)[0], theirs)
    for pieces in ([length // 2, 1, length - length // 2 - 1], [1] * length):
        state = cache = None
        for i, (piece, expected) in enumerate(zip(ids.split(pieces, 1), theirs.split(pieces, 1), strict=True)):
            logits, state = lm.model(piece, state)
            same(logits, expected)
            if len(pieces) == length or i == 0:  # a text in pieces is our own affair: there it is covered one by one
                out = hf(piece, cache=cache, use_cache=True)
                cache = out.cache
                same(logits, out.logits)


def check_greedy(lm, hf, prompt, length):
    ids = torch.tensor([lm.tokenizer.encode(prompt).ids])
    theirs = hf.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length)
    ours = lm.generate(prompt, SamplingParams(temperature=0, max_new_tokens=length))
    assert len(ours.text) == length
    assert ours.text == lm.tokenizer.decode(theirs[0, ids.shape[1] :].tolist())


def test_it_opens_as_qwen3_with_nothing_missing(folder):
    hf, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(hf).__name__ == "Qwen3ForCausalLM"
    assert not any(report.values())
    ours = load(folder).model.state_dict()
    theirs = hf.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("length", [5, W, W + 1, 4 * W + 3])
def test_logits_are_the_same_inside_the_window_and_three_past_it(pair, length):
    check_logits(*pair, length)


def test_greedy_text_is_the_same(pair):
    check_greedy(*pair, "The old clock", 500)


@torch.no_grad()
def test_rows_of_a_batch_are_the_same(pair):
    lm, hf = pair
    ids = torch.randint(len(lm.tokenizer), (3, 2 * W + 1), generator=torch.Generator().manual_seed(1))
    same(lm.model(ids)[0], hf(ids).logits)


def test_logits_of_the_shipped_gpt_are_the_same(shipped):
    lm, hf = shipped
    ids = random_ids(lm, 4 * lm.window + 3)
    with torch.no_grad():
        theirs = hf(ids, use_cache=False).logits
        same(lm.model(ids)[0], theirs)
        state, read = None, []
        for piece in ids.split([lm.window + 9, 1, 1, 3 * lm.window - 8], dim=1):
            logits, state = lm.model(piece, state)
            read.append(logits)
    same(torch.cat(read, dim=1), theirs)


def test_greedy_text_of_the_shipped_gpt_is_the_same(shipped):
    check_greedy(*shipped, "ROMEO:", 500)


def data_at_hand() -> texts.TextDataset:
    if not (texts.cache_folder() / "shakespeare.txt").is_file():
        pytest.skip("the text is not in the cache; `python -m train evaluate gpt-shakespeare --data shakespeare` fetches it")
    return texts.read("shakespeare")


def test_the_shipped_gpt_has_the_loss_that_its_training_told(shipped):
    lm, _ = shipped
    told = json.loads((SHIPPED / "training.json").read_text(encoding="utf-8"))["held_out"]
    ids = torch.tensor(lm.tokenizer.encode(data_at_hand().parts[1]).ids)
    again = evaluate(lm.model, ids, told["window"])
    assert again.nats_per_token == pytest.approx(told["nats_per_token"], abs=1e-3)
    assert again.bits_per_character == pytest.approx(told["bits_per_character"], abs=2e-3)
    assert again.tokens == told["tokens"]


def test_the_shipped_pieces_of_words_and_their_bits_are_those_that_its_training_told():
    folder = WEIGHTS / "bpe-shakespeare"
    told, data = json.loads((folder / "training.json").read_text(encoding="utf-8")), data_at_hand()
    pieces, lm = TokenizedDataset.of(data, 256, told["tokenizer"]), load(folder)
    assert lm.tokenizer.files() == pieces.tokenizer.files()
    again = evaluate(lm.model, pieces.evaluate, told["window"], pieces.target_text)
    assert again.bits_per_character == pytest.approx(told["held_out"]["bits_per_character"], abs=2e-3)
    assert again.bits_per_byte == again.bits_per_character  # the text is ASCII
    assert again.bits_per_character == pytest.approx(
        again.nats_per_token * again.tokens / math.log(2) / len(data.parts[1]), rel=1e-4
    )


def test_the_shipped_bigram_is_the_counted_one():
    folder = WEIGHTS / "bigram-shakespeare"
    told = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    pieces, lm = TokenizedDataset.of(data_at_hand(), 1), load(folder)
    counted, k = fit_bigram(pieces)
    assert k == told["k"]
    torch.testing.assert_close(lm.model.logits, counted.logits)
    assert evaluate(lm.model, pieces.evaluate, WINDOW).nats_per_token == pytest.approx(
        told["held_out"]["nats_per_token"], abs=1e-5
    )


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


def test_tokenizer_leaves_the_same_characters_out(their_tokenizer, tokenizer):
    for piece in ("Bo~th~", "~", "日本 the é clock", "a\u0301b", "👍🏽 ok"):
        assert their_tokenizer(piece).input_ids == tokenizer.encode(piece).ids


def test_tokenizer_of_any_script_comes_back(tmp_path, make_gpt):
    script = "ünïcödé 日本語\r\n\t👍🏽 e\u0301  <|x|> </s> ▁ Ġ ##a"
    tokenizer = Tokenizer.from_text(script)
    save(tmp_path / "script", make_gpt(vocab_size=len(tokenizer)), tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "script")
    assert theirs(script).input_ids == tokenizer.encode(script).ids
    assert theirs.decode(theirs(script).input_ids) == script


def with_end(bpe):
    """As GPT-2's and others' are: with a token that is no text."""
    made = Tokenizer.from_json(bpe.files()["tokenizer.json"])
    made.backend.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(made.backend)


@pytest.mark.parametrize("make", [lambda bpe: bpe, with_end])
def test_pieces_of_words_are_the_same(bpe, make, text, tmp_path, make_gpt):
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


def test_greedy_text_of_pieces_of_words_is_the_same(bpe, make_gpt, tmp_path):
    save(tmp_path / "pieces", make_gpt(vocab_size=len(bpe)), bpe)
    lm, hf = load(tmp_path / "pieces"), AutoModelForCausalLM.from_pretrained(tmp_path / "pieces")
    ids = torch.tensor([bpe.encode("The old clock").ids])
    theirs = hf.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=200)
    ours = lm.generate("The old clock", SamplingParams(temperature=0, max_new_tokens=200))
    assert ours.token_ids == theirs[0, ids.shape[1] :].tolist()


def test_a_pipeline_writes_as_the_card_shows(folder):
    write = transformers.pipeline("text-generation", str(folder))
    for prompt in ("The old", "\n"):
        (written,) = write(prompt, max_new_tokens=20)
        assert written["generated_text"].startswith(prompt)
        assert len(written["generated_text"]) == len(prompt) + 20


# Sampling


def test_filters_are_those_of_transformers():
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
    assert len(kept) > 15  # the filters kept now few, now many
