import pytest

from gpt import Tokenizer


def test_every_character_has_one_token(text):
    tokenizer = Tokenizer.from_text(text)
    assert len(tokenizer) == len(set(text))
    assert sorted(tokenizer.vocab.values()) == list(range(len(tokenizer)))
    assert len(tokenizer.encode(text).ids) == len(text)


ODD = ["", "a", "\n", "a  b", "\n\n  \n", " a ", "\r\n\ttab", "ünïcödé", "日本語", "👍🏽", "e\u0301", "\0"]


@pytest.mark.parametrize("text", ODD)
def test_decode_gives_the_text_again(text):
    tokenizer = Tokenizer.from_text(text)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


SCRIPTS = [*ODD, "👨\u200d👩\u200d👧 日本語\u3000e\u0301 ünï\r\n\0 <|x|> Ġ Ċ ▁ \ufffd", "   two  spaces   "]


@pytest.mark.parametrize("script", SCRIPTS)
def test_bytes_encode_any_text(bpe, script):
    ids, unknown_chars = bpe.encode(script)
    assert bpe.decode(ids) == script
    assert unknown_chars == ""


def test_half_of_a_character_pair_is_no_text_even_in_bytes(bpe):
    ids, unknown_chars = bpe.encode("a\ud800b\udfff")
    assert (bpe.decode(ids), unknown_chars) == ("ab", "\ud800\udfff")


def test_frequent_pieces_have_a_token_of_their_own(bpe, text):
    assert len(bpe) == 300
    assert sorted(bpe.vocab.values()) == list(range(300))
    assert "Ġthe" in bpe.vocab
    assert len(bpe.encode(text).ids) < 0.8 * len(text)


def test_the_new_line_of_a_byte_level_vocabulary_is_found(bpe, tokenizer):
    assert bpe.decode([bpe.start_id]) == "\n"
    assert bpe.encode("\n").ids == [bpe.start_id]
    assert (bpe.unit, tokenizer.unit) == ("token", "character")


def test_a_text_with_too_few_pairs_for_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"^the text gives 257 tokens, not 300: it has no more pairs to join$"):
        Tokenizer.bpe("ab", 300)


def test_own_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_new_line_is_always_there():
    tokenizer = Tokenizer.from_text("abc")
    assert len(tokenizer) == 4
    assert tokenizer.decode([tokenizer.start_id]) == "\n"


def test_unseen_characters_are_left_out_and_told_once_in_their_order():
    ids, unknown_chars = Tokenizer.from_text("abc").encode("xaybxzc")
    assert unknown_chars == "xyz"
    assert ids == Tokenizer.from_text("abc").encode("abc").ids


def test_nothing_left_of_an_unseen_text():
    assert Tokenizer.from_text("abc").encode("xyz") == ([], "xyz")


def test_the_order_of_the_text_does_not_change_the_ids():
    assert Tokenizer.from_text("abc").vocab == Tokenizer.from_text("ccbbaa").vocab


@pytest.mark.parametrize("kind", ["tokenizer", "bpe"])
def test_file_opens_as_the_same_tokenizer(kind, request, text, tmp_path):
    tokenizer = request.getfixturevalue(kind)
    (tmp_path / "tokenizer.json").write_text(tokenizer.files()["tokenizer.json"], encoding="utf-8")
    opened = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert opened.vocab == tokenizer.vocab
    assert opened.encode(text) == tokenizer.encode(text)
    assert opened.decode(opened.encode(text).ids) == text
    assert opened.start_id == tokenizer.start_id


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"model": {"type": "BPE"}}', '{"version": "1.0", "model": 3}'])
def test_what_is_no_tokenizer_file_is_refused(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"^it is not a tokenizer file$"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_tokenizer_with_holes_in_its_ids_is_refused(tmp_path):
    file = Tokenizer.from_text("ab").files()["tokenizer.json"].replace('"b": 2', '"b": 7')
    (tmp_path / "tokenizer.json").write_text(file)
    with pytest.raises(ValueError, match="ids do not count up from 0"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_tokenizer_without_a_byte_is_refused(bpe, tmp_path):
    file = bpe.files()["tokenizer.json"].replace('"ÿ": ', '"ÿÿ": ')
    (tmp_path / "tokenizer.json").write_text(file, encoding="utf-8")
    with pytest.raises(ValueError, match="no token for a new line"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_tokenizer_without_a_new_line_is_refused(tmp_path):
    file = Tokenizer.from_text("ab").files()["tokenizer.json"].replace('"\\n": 0', '"c": 0')
    (tmp_path / "tokenizer.json").write_text(file)
    with pytest.raises(ValueError, match="no token for a new line"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
