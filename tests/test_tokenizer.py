import json

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from gpt import LanguageModel, SamplingParams, Tokenizer
from gpt.tokenizer import StreamDecoder, name_characters

ODD_TEXTS = ["", "\n", "a  b", "\n\n  \n", " a ", "\r\n\ttab", "ünï", "日本\u3000", "👨\u200d👩\u200d👧", "e\u0301 \0 Ġ Ċ ▁"]


def test_character_tokenizer_has_a_token_for_each_character(text):
    tokenizer = Tokenizer.from_text(text)
    assert tokenizer.vocab == {c: i for i, c in enumerate(sorted(set(text)))}
    assert len(tokenizer) == len(set(text))
    assert len(tokenizer.encode(text).ids) == len(text)
    assert tokenizer.unit == "character"


@pytest.mark.parametrize("odd", ODD_TEXTS)
def test_decode_is_the_inverse_of_encode(bpe, odd):
    for tokenizer in (Tokenizer.from_text(odd), bpe):
        ids, unknown_chars = tokenizer.encode(odd)
        assert tokenizer.decode(ids) == odd
        assert unknown_chars == ""


def test_newline_is_always_in_the_vocabulary(bpe):
    tokenizer = Tokenizer.from_text("abc")
    assert len(tokenizer) == 4
    for each in (tokenizer, bpe):
        assert each.encode("\n").ids == [each.start_id]
        assert each.decode([each.start_id]) == "\n"


def test_unknown_characters_are_skipped_and_reported_once_in_order():
    tokenizer = Tokenizer.from_text("abc")
    assert tokenizer.encode("xaybxzc") == (tokenizer.encode("abc").ids, "xyz")
    assert tokenizer.encode("xyz") == ([], "xyz")


def test_surrogates_are_unknown_to_a_byte_level_tokenizer(bpe):
    ids, unknown_chars = bpe.encode("a\ud800b\udfff")
    assert (bpe.decode(ids), unknown_chars) == ("ab", "\ud800\udfff")


def test_byte_pair_encoding_merges_frequent_pairs(bpe, text):
    assert sorted(bpe.vocab.values()) == list(range(300))
    assert "Ġthe" in bpe.vocab
    assert len(bpe.encode(text).ids) < 0.8 * len(text)
    assert bpe.unit == "token"


def test_text_with_too_few_pairs_is_rejected():
    with pytest.raises(ValueError, match="the text gives 257 tokens, not 300"):
        Tokenizer.bpe("ab", 300)


def test_normalize_lower_cases_only_where_there_are_no_capitals(bpe):
    assert Tokenizer.from_text("abc").normalize("Emma") == "emma"
    for tokenizer in (Tokenizer.from_text("abC"), Tokenizer.from_text("12"), bpe):
        assert tokenizer.normalize("Emma") == "Emma"


def test_stream_decoder_waits_for_the_bytes_of_a_character(bpe):
    stream = StreamDecoder(bpe)
    steps = [stream.step(i) for i in bpe.encode("a👍b").ids]
    assert "".join(steps) == "a👍b"
    assert "" in steps


def test_characters_are_named_in_messages():
    assert name_characters("a \t\u200b") == "a space tab zero width space"
    assert name_characters("abc", most=2) == "a b …"


# Files


@pytest.mark.parametrize("name", ["tokenizer", "bpe"])
def test_file_opens_as_the_same_tokenizer(name, request, text, tmp_path):
    tokenizer = request.getfixturevalue(name)
    (tmp_path / "tokenizer.json").write_text(tokenizer.files()["tokenizer.json"], encoding="utf-8")
    opened = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert opened.vocab == tokenizer.vocab
    assert opened.encode(text) == tokenizer.encode(text)
    assert opened.start_id == tokenizer.start_id


@pytest.mark.parametrize("content", ["", "{", "null", "{}", '{"model": {"type": "BPE"}}', '{"version": "1.0", "model": 3}'])
def test_other_files_are_rejected(content):
    with pytest.raises(ValueError, match=r"^it is not a tokenizer file$"):
        Tokenizer.from_json(content)


def test_binary_file_is_rejected(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"^it is not UTF-8$"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"b": 2', '"b": 7', "its ids do not count up from 0"),
        ('"\\n": 0', '"c": 0', "it has no token for a newline"),
        ('"Fuse"', '"Strip", "content": "a", "start": 1, "stop": 0', "its decoder is not supported"),
    ],
)
def test_unusable_vocabularies_are_rejected(old, new, reason):
    content = Tokenizer.from_text("ab").files()["tokenizer.json"]
    assert old in content
    with pytest.raises(ValueError, match=reason):
        Tokenizer.from_json(content.replace(old, new))


def test_byte_level_vocabulary_without_a_byte_is_rejected(bpe):
    with pytest.raises(ValueError, match="it has no token for a newline"):
        Tokenizer.from_json(bpe.files()["tokenizer.json"].replace('"ÿ": ', '"ÿÿ": '))


def changed(tokenizer: Tokenizer, change) -> str:
    """A tokenizer.json with a change of its backend."""
    backend = Backend.from_str(tokenizer.files()["tokenizer.json"])
    change(backend)
    return backend.to_str()


def add_post_processor(backend):
    backend.add_special_tokens(["<s>", "</s>"])
    special = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)


@pytest.mark.parametrize(
    "change",
    [
        add_post_processor,
        lambda backend: setattr(backend, "post_processor", processors.ByteLevel(trim_offsets=True)),
        lambda backend: backend.enable_truncation(4),
        lambda backend: backend.enable_padding(length=512),
        lambda backend: backend.add_special_tokens(["<|endoftext|>"]),
    ],
)
def test_special_tokens_truncation_and_padding_are_not_applied(bpe, text, change):
    tokenizer = Tokenizer.from_json(changed(bpe, change))
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert ids == bpe.encode(text).ids


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda backend: setattr(backend, "normalizer", normalizers.Lowercase()),
        lambda backend: setattr(backend, "normalizer", normalizers.NFKC()),
        lambda backend: setattr(backend, "normalizer", normalizers.Strip()),
        lambda backend: setattr(backend, "normalizer", normalizers.Replace(Regex(" +"), " ")),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda backend: setattr(backend, "decoder", decoders.WordPiece()),
    ],
)
def test_tokenizer_that_changes_a_text_is_rejected_with_a_sentence(bpe, change):
    with pytest.raises(ValueError, match=r"^(it does not keep a text as it is: |its \w+ is not supported; )[^\n]*$"):
        Tokenizer.from_json(changed(bpe, change))


HOSTILE = r"(a+)+$"  # backtracks exponentially


def test_regular_expression_that_fails_on_a_text_is_a_value_error(capfd):
    """A Rust panic is a BaseException, which would pass every `except Exception` of a server."""
    backend = Backend(models.BPE(vocab={"\n": 0, "a": 1, "b": 2}, merges=[]))
    backend.decoder = decoders.Fuse()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(HOSTILE), "isolated")
    tokenizer = Tokenizer(backend)
    assert tokenizer.decode(tokenizer.encode("ab").ids) == "ab"
    with pytest.raises(ValueError, match=r"^the tokenizer fails on this text; give another one$"):
        tokenizer.encode("a" * 60 + "b")


def test_regular_expression_of_a_stranger_is_refused(bpe):
    hostile = json.loads(bpe.files()["tokenizer.json"])
    split = {"type": "Split", "pattern": {"Regex": r"^(\X+)+\d$"}, "behavior": "Isolated", "invert": False}
    hostile["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, hostile["pre_tokenizer"]]}
    with pytest.raises(ValueError, match="its pre_tokenizer is not supported"):
        Tokenizer.from_json(json.dumps(hostile))


def test_decoder_that_fails_on_a_token_is_a_value_error(make_gpt, capfd):
    backend = Backend(models.BPE(vocab={"\n": 0, "a": 1, "a" * 60 + "b": 2}, merges=[]))
    backend.decoder = decoders.Replace(Regex(HOSTILE), "a")
    tokenizer = Tokenizer(backend)
    with pytest.raises(ValueError, match="the tokenizer fails"):
        tokenizer.decode([2])
    with pytest.raises(ValueError, match="the tokenizer fails"):
        LanguageModel(make_gpt(vocab_size=3), tokenizer).generate("", SamplingParams(temperature=5, seed=1))
