"""The vocabulary that `--tokenizer` names."""

from dataclasses import replace

import pytest
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from gpt import Tokenizer
from gpt.hub import HubError
from train.data import Data
from train.run import Texts
from train.tokens import GPT2, tokenizer_for


@pytest.fixture(scope="module")
def words(text):
    """A text of words, whose last tenth has characters that its first part has not."""
    return Data("words", text * 4 + "日本語" * 50, "0" * 64, None)


@pytest.fixture
def theirs(bpe):
    """The file of a vocabulary that somebody else made: with a token for the end of a text, like GPT-2's."""
    made = Tokenizer.from_json(bpe.files()["tokenizer.json"])
    made.backend.add_special_tokens(["<|endoftext|>"])
    return made.files()["tokenizer.json"]


def test_a_character_each(words):
    assert tokenizer_for("char", words).vocab == Tokenizer.from_text(words.text).vocab


def test_pieces_are_learned_from_the_training_part_alone(words):
    tokenizer = tokenizer_for("bpe:280", words)
    assert len(tokenizer) == 280
    train, held_out = words.parts
    other = replace(words, text=train + held_out[::-1])
    assert tokenizer_for("bpe:280", other).files() == tokenizer.files()
    assert tokenizer_for("bpe:280", replace(words, text=words.text[::-1])).files() != tokenizer.files()
    assert len(tokenizer.encode("日").ids) == 3


@pytest.mark.parametrize("asked", ["bpe", "bpe:", "bpe:256", "bpe:-300", "bpe:3e2", "bpe:65537", "bpe:²"])
def test_a_vocabulary_out_of_bounds_is_refused(words, asked):
    with pytest.raises(ValueError, match=r"^bpe.* is no vocabulary; give bpe:N with N from 257 to 65,536, as in bpe:512$"):
        tokenizer_for(asked, words)


def test_a_text_too_short_for_a_vocabulary_is_refused(words):
    with pytest.raises(
        ValueError, match=r"^words is too short for bpe:9000 \(the text gives \d+ tokens, .*; ask for fewer tokens$"
    ):
        tokenizer_for("bpe:9000", words)


def test_a_text_is_measured_in_its_tokens():
    data = Data("same", "the lamp " * 60, "0" * 64, None)
    assert len(Texts.of(data, 64).train) == 486
    with pytest.raises(ValueError, match=r"^same has \d+ tokens to learn from and \d+ held out, too few for windows of 200$"):
        Texts.of(data, 200, "bpe:262")


def test_a_file_is_opened(words, theirs, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(theirs, encoding="utf-8")
    opened = tokenizer_for(str(path), words)
    assert len(opened) == 301
    assert Texts.of(words, 8, str(path)).asked == "tokenizer.json"  # not where it lies on this machine
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json cannot be used \(it is not a tokenizer file\); give another"):
        tokenizer_for(str(path), words)
    with pytest.raises(
        ValueError, match=r"^no tokenizer could be read from 'zebra' \(No such file.*; give a tokenizer.json, or one"
    ):
        tokenizer_for("zebra", words)


def test_gpt2_is_fetched_once(words, theirs, hub):
    hub.add("model", GPT2, {"tokenizer.json": theirs.encode(), "model.safetensors": b"0" * 9_000})
    assert tokenizer_for("gpt2", words).files()["tokenizer.json"] == theirs
    assert not any("safetensors" in path for _, path in hub.requests)
    hub.close()
    assert len(tokenizer_for("gpt2", words)) == 301  # from the cache


def test_gpt2_that_cannot_be_had_is_a_sentence(words, hub):
    with pytest.raises(HubError, match="openai-community/gpt2 is not on the Hub"):
        tokenizer_for("gpt2", words)
    hub.add("model", GPT2, {"tokenizer.json": b"{}"})
    with pytest.raises(ValueError, match="it is not a tokenizer file"):
        tokenizer_for("gpt2", words)
    hub.add("model", GPT2, {"tokenizer.json": b"", "README.md": b""})
    with pytest.raises(ValueError, match="it is not a tokenizer file"):
        tokenizer_for("gpt2", words)  # nothing was kept


def test_gpt2_is_that_of_tiktoken(words):
    """Where both vocabularies are at hand: nothing is downloaded for it."""
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed: GPT-2's vocabulary was not compared")
    try:
        hf_hub_download(GPT2, "tokenizer.json", local_files_only=True, cache_dir=constants.HF_HUB_CACHE)
        reference = tiktoken.get_encoding("gpt2")
    except (LocalEntryNotFoundError, OSError):
        pytest.skip("GPT-2's vocabulary is not in the cache")
    ours = tokenizer_for("gpt2", words)
    for text in (words.text, "  two  spaces\n\n👍🏽 e\u0301 don't 12345"):
        assert ours.encode(text).ids == reference.encode(text)
