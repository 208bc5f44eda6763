"""Tokenisers give every text back, travel as JSON, and stream without ever cutting a character."""

from __future__ import annotations

import json
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s4gen.data.text import (
    ByteTokenizer,
    StreamDecoder,
    Tokenizer,
    WordTokenizer,
    build_tokenizer,
    from_json,
    open_corpus,
)
from s4gen.data.text.bpe import BPETokenizer
from s4gen.errors import UserError

KINDS = ["word", "bpe", "bytes"]
ODD = " The 2 @,@ 000 @-@ ton <unk> of 0 @.@ 5 \u2013 6 kg ( see <unk> ) = \n"
"""What WikiText writes for 2,000-ton, a rare word, and 0.5."""
TEXTS = st.text() | st.text(" \n\r\t\u00a0\u2028\x85\x0b\x1cab<eos>unk@é€😀\ufeff")


@cache
def tokenizer(kind: str) -> Tokenizer:
    return build_tokenizer(kind, open_corpus("wikitext-mini", "train"), 1000 if kind == "bpe" else None)


def mini(split: str) -> str:
    return "".join(open_corpus("wikitext-mini", split).texts())


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
@given(TEXTS)
def test_every_text_comes_back_exactly(kind: str, text: str) -> None:
    assert tokenizer(kind).decode(tokenizer(kind).encode(text)) == text


@given(st.binary())
def test_every_byte_comes_back_from_bytes(data: bytes) -> None:
    made = tokenizer("bytes")
    assert b"".join(made.pieces[token] for token in made.encode_bytes(data)) == data


def test_every_byte_is_a_token_of_byte_pairs() -> None:
    pieces = tokenizer("bpe").pieces
    assert {bytes([value]) for value in range(256)} <= set(pieces)
    assert len(set(pieces)) == len(pieces) == 1000


def test_every_character_of_up_to_three_bytes_comes_back() -> None:
    """All bytes that UTF-8 has, in all places, among them; no surrogates, which are no characters."""
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000), 0x10000, 0x1F600, 0x10FFFF]))
    for kind in ("bpe", "bytes"):
        assert tokenizer(kind).decode(tokenizer(kind).encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_wikitext_comes_back_byte_for_byte(kind: str) -> None:
    text = mini("train") + (ODD if kind != "word" else "")
    assert tokenizer(kind).decode(tokenizer(kind).encode(text)) == text


def test_the_odd_tokens_of_wikitext_are_words() -> None:
    made = WordTokenizer.build([ODD])
    tokens = made.encode(ODD)
    assert [made.words[token] for token in tokens] == [*ODD.split(), "<eos>"]
    assert made.decode(tokens) == ODD
    assert len({"@-@", "@,@", "@.@", "<unk>", "\u2013"} & set(made.words)) == 5


@given(TEXTS)
def test_words_come_back_where_the_vocabulary_has_them(text: str) -> None:
    made = WordTokenizer.build([text])
    lines = [line.split() for line in text.split("\n")]
    written = "".join(f" {word}" for word in lines[0]) + "".join(
        " \n" + "".join(f" {word}" for word in line) for line in lines[1:]
    )
    assert made.decode(made.encode(text)) == written.replace(" <eos>", " <unk>")
    assert made.encode(written) == made.encode(text)


def test_words_are_ordered_by_frequency_then_by_character() -> None:
    made = WordTokenizer.build(["b a é\n", "c c b d <unk>"])
    assert made.words == ["<eos>", "b", "c", "<unk>", "a", "d", "é"]
    assert made.words == WordTokenizer.build(["c <unk> d b\n", "é b a c"]).words


def test_unknown_words_and_a_literal_eos_are_unk() -> None:
    made = WordTokenizer.build(["a <eos> a\nb\n"])
    assert made.words == ["<eos>", "a", "<unk>", "b"]
    assert made.encode("a <eos> zzz\n") == [1, 2, 2, 0]


def test_a_smaller_vocabulary_leaves_out_the_rarest_words_for_unk() -> None:
    assert WordTokenizer.build(["a a a b b c d e"], 4).words == ["<eos>", "<unk>", "a", "b"]
    assert WordTokenizer.build(["a a a b b c d e"], 99).words == ["<eos>", "a", "b", "c", "d", "e", "<unk>"]
    with pytest.raises(UserError, match=r"^a vocabulary of 1 words: expected at least 2"):
        WordTokenizer.build(["a"], 1)


def test_only_a_line_feed_ends_a_line() -> None:
    made = WordTokenizer.build(["a b"])
    assert made.encode("a\u2028b\x85a\r\nb") == [1, 2, 1, 0, 2]


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(TEXTS.map(lambda text: text + "\n")))
def test_the_tokens_of_a_text_are_those_of_its_lines(kind: str, lines: list[str]) -> None:
    """So corpora can be read in blocks of whole lines, and prompts look like the corpus."""
    made = tokenizer(kind)
    assert made.encode("".join(lines)) == [token for line in lines for token in made.encode(line)]


def test_byte_pairs_are_the_same_however_the_text_comes() -> None:
    text = mini("test")
    cut = [text[:1000], text[1000:]]
    while not cut[0].endswith("\n"):
        cut = [cut[0] + cut[1][0], cut[1][1:]]
    assert BPETokenizer.train([text], 400).fingerprint == BPETokenizer.train(cut, 400).fingerprint


def test_byte_pairs_are_shorter_than_bytes_and_know_no_literal_eos() -> None:
    made, text = tokenizer("bpe"), mini("test")
    assert len(made.encode(text)) < len(text.encode()) / 2
    assert made.eos == made.vocab - 1 == 999
    assert made.eos not in made.encode("<eos>")


def test_a_small_text_has_fewer_byte_pairs_than_asked_for() -> None:
    assert BPETokenizer.train(["aaaa aaaa\n"], 1000).vocab < 300
    with pytest.raises(UserError, match=r"^a byte-pair vocabulary of 256: expected at least 257"):
        BPETokenizer.train(["aaaa"], 256)
    assert BPETokenizer.train(["aaaa"], 257).vocab == 257


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokeniser_is_its_json(kind: str) -> None:
    made = tokenizer(kind)
    twin = from_json(made.to_json())
    assert twin.to_json() == made.to_json()
    assert (twin.kind, twin.vocab, twin.eos, twin.fingerprint) == (kind, made.vocab, made.eos, made.fingerprint)
    assert twin.encode(ODD) == made.encode(ODD)
    assert twin.decode(range(twin.vocab)) == made.decode(range(made.vocab))


def test_different_tokenisers_have_different_fingerprints() -> None:
    made = [*map(tokenizer, KINDS), ByteTokenizer(eos=False), WordTokenizer.build(["a"]), WordTokenizer.build(["b"])]
    assert len({one.fingerprint for one in made}) == len(made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"format": 1}',
        '{"format": 1, "kind": "letters"}',
        '{"format": 1, "kind": "word", "words": ["a", "b"]}',
        '{"format": 1, "kind": "word", "words": ["<eos>", "a"]}',
        '{"format": 1, "kind": "word", "words": ["<eos>", "<unk>", "<unk>"]}',
        '{"format": 1, "kind": "word", "words": ["<eos>", "<unk>", "\\ud800"]}',
        '{"format": 1, "kind": "word", "words": 7}',
        '{"format": 1, "kind": "bytes"}',
        '{"format": 1, "kind": "bpe", "tokenizer": {}}',
        json.dumps({"format": 1, "kind": "bpe", "tokenizer": {"model": {"type": "BPE", "vocab": {"€": 0}}}}),
    ],
)
def test_what_is_no_tokeniser_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"^here is damaged or no tokeniser of s4gen .*: make it again from the text$"):
        from_json(text, "here")


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(UserError, match=r"^tokenizer.json has format 2, expected at most 1: use a newer s4gen$"):
        from_json('{"format": 2, "kind": "bytes", "eos": true}')


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_is_no_unicode_is_one_sentence(kind: str) -> None:
    """Python hands over a byte 0xff of the command line as half a surrogate pair."""
    with pytest.raises(UserError, match=r"character 3 is half a surrogate pair; give it as UTF-8$"):
        tokenizer(kind).encode("abc\udcff")


@pytest.mark.parametrize(("kind", "size"), [("bpe", None), ("bytes", 1000), ("letters", None)])
def test_what_cannot_be_built_is_one_sentence(kind: str, size: int | None) -> None:
    with pytest.raises(UserError, match=r"expected (a number|257|one of word, bpe, bytes)"):
        build_tokenizer(kind, open_corpus("wikitext-mini", "test"), size)


@given(st.lists(st.integers(0, 256)))
def test_streamed_bytes_are_the_decoded_ones_and_no_character_is_cut(tokens: list[int]) -> None:
    made = tokenizer("bytes")
    decoder = StreamDecoder(made)
    parts = [decoder.feed(token) for token in tokens]
    assert "".join(parts) + decoder.finish() == made.decode(tokens)


@pytest.mark.parametrize("kind", KINDS)
@given(TEXTS)
def test_a_streamed_text_is_complete_at_every_moment(kind: str, text: str) -> None:
    """What has come out is always a beginning of the text: never a half character, never U+FFFD in its place."""
    made = tokenizer(kind)
    tokens = made.encode(text)
    whole, decoder, out = made.decode(tokens), StreamDecoder(made), ""
    for token in tokens:
        out += decoder.feed(token)
        assert whole.startswith(out)
    assert out == whole
    assert decoder.finish() == ""


def test_a_character_that_never_ends_becomes_a_replacement_mark() -> None:
    decoder = StreamDecoder(ByteTokenizer())
    assert [decoder.feed(token) for token in "a€".encode()[:-1]] == ["a", "", ""]
    assert decoder.finish() == "\ufffd"
    assert decoder.feed(ord("b")) == "b", "the next text does not see what the last one held back"
    assert decoder.feed(0xFF) == "\ufffd", "no byte after it could make it UTF-8"


def test_documents_end_where_the_convention_says() -> None:
    word, bpe, raw = map(tokenizer, KINDS)
    assert (word.ending(b"a\n"), word.ending(b"a"), word.ending(b"")) == ([], [word.eos], [])
    assert (bpe.ending(b"a\n"), raw.ending(b"a")) == ([bpe.eos], [256])
    assert ByteTokenizer(eos=False).ending(b"a") == []
    assert ByteTokenizer(eos=False).eos is None
    assert bpe.decode([999]) == raw.decode([256]) == ""
    assert word.decode([0]) == " \n"


@pytest.mark.data
def test_wikitext_2_has_the_published_vocabulary_and_its_test_text_comes_back() -> None:
    made = build_tokenizer("word", open_corpus("wikitext-2", "train"))
    assert made.vocab == 33_278
    text = "".join(open_corpus("wikitext-2", "test").texts())
    tokens = made.encode(text)
    assert len(tokens) == 245_569
    assert made.decode(tokens) == text
