"""tokenizer.json files of strangers: broken, oversized, or made to crash, hang or confuse whoever opens them."""

import json
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from gpt import Tokenizer
from gpt.tokenizer import MAX_ADDED_TOKENS, MAX_FILE_BYTES, MAX_TOKEN_CHARS, MAX_TOKENS

pytestmark = pytest.mark.usefixtures("clean_output")

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
TEXTS = ("", "a", "abc\n" * 500, " " * 5_000, "a" * 5_000, "\u200d👩" * 500, "<|endoftext|>" * 500, "\0\ud800\uffff")
HOSTILE = r"(a+)+$"  # backtracks exponentially


def character_document() -> dict:
    return json.loads(Tokenizer.from_text("ab <>|\n").files()["tokenizer.json"])


def byte_document() -> dict:
    backend = Backend(models.BPE(vocab={c: i for i, c in enumerate([*LETTERS, "ab"])}, merges=[("a", "b")]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    return json.loads(backend.to_str())


def word_document() -> dict:
    backend = Backend(models.WordLevel({"a": 0, "b": 1, "\n": 2, " ": 3, "?": 4}, unk_token="?"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    return json.loads(backend.to_str())


DOCUMENTS = {"characters": character_document(), "bytes": byte_document(), "words": word_document()}


def check(tokenizer: Tokenizer | None) -> None:
    """A tokenizer that was opened keeps every text as it is, less unknown characters, in ids of its vocabulary."""
    for text in TEXTS if tokenizer else ():
        ids, unknown_chars = tokenizer.encode(text)
        assert all(0 <= i < len(tokenizer) for i in ids)
        assert tokenizer.decode(ids) == "".join(c for c in text if c not in unknown_chars)
        assert len(tokenizer.spans(text)) == len(ids)


def open_and_check(attack, document) -> None:
    """Open a tokenizer.json, given as a string or as what JSON would contain. It is refused, or it works."""
    content = document if isinstance(document, str) else json.dumps(document)
    attack.survived(lambda: check(Tokenizer.from_json(content)), ValueError)


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_harmless_tokenizer_opens(document):
    check(Tokenizer.from_json(json.dumps(document)))


UNSUPPORTED = {
    "normalizer": [
        *(getattr(normalizers, name)() for name in ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "Strip", "StripAccents")),
        normalizers.BertNormalizer(),
        normalizers.ByteLevel(),
        normalizers.Prepend("a"),
        normalizers.Replace("", "aaaaaaaa"),  # grows a text
        normalizers.Replace(Regex(HOSTILE), "b"),
        normalizers.Sequence([normalizers.Replace("a", "aa")] * 40),  # 2**40 letters for each
        normalizers.Sequence([]),
    ],
    "pre_tokenizer": [
        *(getattr(pre_tokenizers, name)() for name in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts")),
        pre_tokenizers.Metaspace(),
        pre_tokenizers.Digits(),
        pre_tokenizers.Punctuation("removed"),
        pre_tokenizers.CharDelimiterSplit("a"),
        pre_tokenizers.Split(Regex(HOSTILE), "isolated"),
        pre_tokenizers.Split(Regex(r"^(\X+)+\d$"), "isolated"),
        pre_tokenizers.Split(Regex(r"[\s\S]"), "removed"),
        pre_tokenizers.Split("", "isolated"),
        pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(), pre_tokenizers.Split(Regex(HOSTILE), "isolated")]),
    ],
    "decoder": [
        decoders.WordPiece(),
        decoders.Metaspace(),
        decoders.BPEDecoder(),
        decoders.CTC(),
        decoders.ByteFallback(),
        decoders.Strip("a", 1, 1),
        decoders.Replace(Regex(HOSTILE), "b"),
        decoders.Sequence([decoders.Replace("a", "aa")] * 40),
        decoders.Sequence([decoders.Fuse(), decoders.Strip("a", 2**60, 2**60)]),  # panics
    ],
}


@pytest.mark.parametrize("name", UNSUPPORTED)
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_other_components_are_refused(attack, document, name):
    for component in UNSUPPORTED[name]:
        value = json.loads(component.__getstate__())
        message = attack.refused(lambda value=value: Tokenizer.from_json(json.dumps(document | {name: value})), ValueError)
        assert f"its {name} is not supported" in message


def test_other_models_are_refused(attack):
    changes = [
        {"type": "Unigram", "vocab": [["a", 0.0], ["\n", 0.0]], "unk_id": 0},
        {"type": "WordPiece", "max_input_chars_per_word": 2**60, "unk_token": "a", "continuing_subword_prefix": "#"},
        {"type": ["BPE"]},
        {"type": None},
        {"dropout": 0.5},
        {"continuing_subword_prefix": "a"},
        {"end_of_word_suffix": "\n"},
        {"cache_capacity": 2**62},
    ]
    for document in DOCUMENTS.values():
        for change in changes:
            changed = document | {"model": document["model"] | change}
            attack.refused(lambda changed=changed: Tokenizer.from_json(json.dumps(changed)), ValueError)


def test_what_would_change_ids_is_left_out(attack):
    """Padding, truncation and post-processors may name ids that do not exist."""
    template = processors.TemplateProcessing("[X] $A [X]", None, [("[X]", 2**31)])
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 2**32 - 1, "pad_type_id": 0, "pad_token": "?"}
    parts = {
        "post_processor": [json.loads(template.__getstate__()), {"type": "RobertaProcessing", "sep": ["?", 7**9]}, 3, "x", []],
        "padding": [padding, padding | {"pad_to_multiple_of": 0}, {"strategy": "BatchLongest"}, -1],
        "truncation": [{"direction": "Left", "max_length": 2, "strategy": "LongestFirst", "stride": 2**63}, {"max_length": 0}, 9],
    }
    for document in DOCUMENTS.values():
        expected = Tokenizer.from_json(json.dumps(document)).encode("ab\nab")
        for name, values in parts.items():
            for value in values:
                tokenizer = attack.survived(lambda new=document | {name: value}: Tokenizer.from_json(json.dumps(new)))
                assert tokenizer.encode("ab\nab") == expected


def test_hostile_tokens_are_refused(attack):
    vocab = character_document()["model"]["vocab"]
    size = len(vocab)
    vocabularies = [
        {},
        {"\n": 0},
        vocab | {"a" * (MAX_TOKEN_CHARS + 1): size},
        vocab | {"": size},
        vocab | {"c": size + 1},
        vocab | {"c": 2**32},
        vocab | {"c": 2**32 - 1},
        vocab | {"c": -1},
        vocab | {"c": 0},
        vocab | {"c": 1.5},
        vocab | {"c": True},
        vocab | {"c": None},
        vocab | {"\ud800": size},
        {str(i): i for i in range(MAX_TOKENS + 1)},
        [],
        "abc",
        list(vocab.items()),
    ]
    for vocabulary in vocabularies:
        document = character_document()
        document["model"]["vocab"] = vocabulary
        if vocabulary == {"\n": 0}:
            open_and_check(attack, document)
        else:
            attack.refused(lambda document=document: Tokenizer.from_json(json.dumps(document)), ValueError)


def test_hostile_merges(attack):
    for merges in (
        ["a b"],
        [["a", "b"]],
        [["a"]],
        [["a", "b", "c"]],
        ["ab"],
        ["a  b"],
        [""],
        ["\n \n"],
        "a b",
        {"a": "b"},
        [[1, 2]],
    ):
        document = character_document()
        document["model"]["merges"] = merges
        open_and_check(attack, document)


def test_hostile_added_tokens(attack):
    token = byte_document()["added_tokens"][0]
    size = token["id"]
    lists = [[token | {name: True}] for name in ("single_word", "lstrip", "rstrip", "normalized", "special", "unheard of")] + [
        [token | {"content": content}]
        for content in ("", "a", "\n", "a" * (MAX_TOKEN_CHARS + 1), "\0", " ", "\ud800", None, 3, [])
    ]
    lists += [[token | {"id": i}] for i in (0, size + 1, 2**32 - 1, 2**32, -1, "1", None)]
    lists += [
        [token] * 2,
        [token | {"id": size + i, "content": f"<{i}>"} for i in range(MAX_ADDED_TOKENS)],
        [{}],
        [3],
        "x",
        {"a": 1},
    ]
    lists += [[token | {"id": size + i, "content": f"<{i}>"} for i in range(MAX_ADDED_TOKENS + 1)]]
    for added in lists:
        open_and_check(attack, byte_document() | {"added_tokens": added})


def test_hostile_files(attack, tmp_path):
    content = json.dumps(byte_document())
    twice = content.replace('"normalizer": null', '"normalizer": null, "normalizer": {"type": "Lowercase"}')
    assert twice != content
    documents = [
        "",
        " ",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"model":' * 50_000,
        "1" * 10_000,
        '{"model": ' + "9" * 10_000 + "}",
        '{"model": NaN}',
        content + "x",
        content[:-1],
        twice,
        content.replace('"ab": 256', '"ab": 256, "ab": 257'),
        content.replace('"vocab": {', '"vocab": {' + '"a": 1, ' * 100_000),
        '{"model": {"type": "BPE", "vocab": {' + '"a": 1, ' * 10,
        content.replace("{", "{" + " " * 1_000),
        "\ufeff" + content,
        " " * (MAX_FILE_BYTES + 1),
        content.replace("1.0", "9.9"),
    ]
    for document in documents:
        open_and_check(attack, document)
    path = tmp_path / "tokenizer.json"
    for data in (b"", b"\xff\xfe", b"\0" * 1_000, content.encode("utf-16"), content.encode()[:-1] + b"\xff}"):
        path.write_bytes(data)
        attack.refused(lambda: Tokenizer.from_file(path), ValueError)
    with open(path, "wb") as file:
        file.truncate(2**40)  # a terabyte of zeros that takes no space
    attack.refused(lambda: Tokenizer.from_file(path), ValueError)


def test_large_tokenizer_opens_in_time(attack):
    rows = 10_000 if attack.is_full else 1_000  # 260,000 tokens are almost the most
    vocab = {"\n": 0} | {
        f"{chr(i)}{chr(97 + j)}": 26 * (i - 0x4E00) + j + 1 for i in range(0x4E00, 0x4E00 + rows) for j in range(26)
    }
    document = character_document() | {"model": {"type": "BPE", "vocab": vocab, "merges": []}}
    attack.survived(lambda: check(Tokenizer.from_json(json.dumps(document))), ValueError)


def test_long_texts_are_encoded_in_time(attack):
    length = 200_000 if attack.is_full else 20_000
    texts = [unit * (length // len(unit)) for unit in ("a", "ab", " ", "a ", "\n", "'s", "1", " \t", "👩\u200d", "<|endoftext|>")]
    for document in DOCUMENTS.values():
        tokenizer = Tokenizer.from_json(json.dumps(document))
        for text in texts:
            assert len(attack.survived(lambda text=text, t=tokenizer: t.encode(text).ids)) <= 8 * len(text)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**33), 2**66),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        [[], {}, {"type": "ByteLevel"}, {"type": "Fuse"}, {"type": "Sequence", "pretokenizers": []}, {"Regex": HOSTILE}]
    ),
    st.recursive(
        st.none() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
    ),
)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The path of each value in a document; of a long list or dictionary, of the first values."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in list(items)[:12] for place in places(inner, (*path, key)))][bool(not path) :]


@given(data=st.data(), name=st.sampled_from(sorted(DOCUMENTS)))
def test_changed_documents(attack, data, name):
    document = deepcopy(DOCUMENTS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(document)))
        parent = document
        for key in path:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[last] = data.draw(VALUES)
        elif isinstance(parent, dict):
            del parent[last]
    open_and_check(attack, document)


@given(data=st.data(), name=st.sampled_from(sorted(DOCUMENTS)))
def test_changed_bytes(attack, data, name):
    content = json.dumps(DOCUMENTS[name])
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    open_and_check(attack, content[:start] + data.draw(st.text('{}[]":,0a\\u\ud800', max_size=4)) + content[end:])
