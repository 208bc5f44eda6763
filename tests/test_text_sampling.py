"""Texts as they are written: whole characters, ended where they should be, the same in any company."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s4gen.config import DensityConfig, ModelConfig, SSMConfig
from s4gen.data.text import ByteTokenizer, Tokenizer, WordTokenizer, layout_of
from s4gen.errors import UserError
from s4gen.models.build import build_model
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.filters import Filters
from s4gen.sampling.repetition import penalise
from s4gen.sampling.text import Text, Writer, log_probabilities, write

WORDS = WordTokenizer(["<eos>", "<unk>", *(f"w{i}" for i in range(30))])
BYTES = ByteTokenizer()


def model_of(tokenizer: Tokenizer, mixer: str = "s4d") -> RecurrentModel:
    """Noise everywhere, so that what it writes depends on all it has read."""
    torch.manual_seed(0)
    shape = ModelConfig(mixer=mixer, d_model=16, n_layers=2, d_ff=8, n_heads=2, window=6, cutoffs=(9, 20))
    model = build_model(DensityConfig(layout_of(tokenizer), shape, SSMConfig(d_state=4)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return convert(model)


def texts(recurrent: RecurrentModel, tokenizer: Tokenizer, prompts: Sequence[str], **options: object) -> list[Text]:
    settings = {"seed": 1, "max_tokens": 12, "engine": "eager", **options}
    found = [text for text, piece in write(recurrent, tokenizer, prompts, **settings) if not piece]  # type: ignore[arg-type]
    return sorted(found, key=lambda text: text.number)


# Pieces


def pieces(tokens: Sequence[int], stop: Sequence[str], tokenizer: Tokenizer = BYTES) -> tuple[list[str], bool]:
    writer = Writer(tokenizer, stop)
    shown = []
    for token in tokens:
        shown.append(writer.feed(token))
        if writer.stopped:
            break
    return [*shown, writer.finish()], writer.stopped


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=5), max_size=3))
def test_what_is_shown_is_the_text_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    """Byte by byte, so that characters and stop strings lie across the borders of tokens."""
    shown, stopped = pieces(list(text.encode()), stop)
    ends = [(text.find(end) + len(end), text.find(end)) for end in stop if end in text]
    assert stopped is bool(ends)
    if not ends:
        assert "".join(shown) == text
        return
    complete = min(end for end, _ in ends)
    begins = [begin for end, begin in ends if end == complete]
    assert "".join(shown) in {text[:begin] for begin in begins}
    assert not any(end in "".join(shown) for end in stop)


@given(st.text(alphabet="abc", max_size=30), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=2))
def test_nothing_is_held_back_that_cannot_begin_a_stop_string(text: str, stop: list[str]) -> None:
    writer, shown = Writer(BYTES, stop), ""
    for i, token in enumerate(text.encode()):
        shown += writer.feed(token)
        if writer.stopped:
            return
        held = text[: i + 1][len(shown) :]
        assert held == "" or any(end.startswith(held) for end in stop)


def test_a_character_is_shown_whole_and_half_a_one_as_unknown() -> None:
    shown, _ = pieces(list("aé€".encode())[:-1], ())
    assert shown == ["a", "", "é", "", "", "\ufffd"]


def test_a_stop_string_may_lie_across_words() -> None:
    tokens = WORDS.encode("w1 w2 w3 w4")
    assert pieces(tokens, ["2 w3"], WORDS)[0] == [" w1", " w", "", ""]


# Texts


@pytest.mark.parametrize("mixer", ["s4d", "attention"])
def test_a_text_is_the_same_in_any_company(mixer: str) -> None:
    """Prompts of unequal length; some texts end early and make room; batches of any size."""
    recurrent = model_of(WORDS, mixer)
    prompts = ["w3 w4 w5", "", "w7", "w1 w2 w3 w4 w5 w6 w7 w8 w9", "w2 w2", "w8", "w1"]
    wanted = texts(recurrent, WORDS, prompts, stop=["w5", "\n"])
    assert len({text.ended for text in wanted}) == 2
    for batch_size in (1, 3, 64):
        found = texts(recurrent, WORDS, prompts, stop=["w5", "\n"], batch_size=batch_size)
        assert [(text.tokens, text.text, text.ended) for text in found] == [
            (text.tokens, text.text, text.ended) for text in wanted
        ]
    for text in wanted:
        assert text.tokens and len(text.tokens) <= 12
        assert WORDS.decode(text.tokens).startswith(text.text)


def test_pieces_join_to_the_text_and_come_as_soon_as_they_can() -> None:
    recurrent, shown = model_of(WORDS), []
    for text, piece in write(recurrent, WORDS, ["w1"], seed=3, max_tokens=9, engine="eager"):
        shown.append(piece)
        assert piece == "" or len(text.tokens) == len(shown)
    assert shown[-1] == "" and "".join(shown) == text.text == WORDS.decode(text.tokens)
    assert (text.ended, len(text.tokens)) == ("length", 9)


def test_without_a_prompt_a_text_starts_behind_eos() -> None:
    """As it does behind a prompt that is nothing but white space."""
    recurrent = model_of(WORDS)
    (first,), (second,) = (texts(recurrent, WORDS, [prompt], filters=Filters(top_k=1)) for prompt in ("", "  "))
    logits, _ = recurrent.step(torch.tensor([WORDS.eos]), recurrent.initial_state(1))
    assert first.tokens == second.tokens
    assert first.tokens[0] == logits.argmax()


def test_a_document_ends_at_eos_and_a_line_does_not() -> None:
    for tokenizer, ended in ((BYTES, "eos"), (WORDS, "length")):
        recurrent = model_of(tokenizer)
        with torch.no_grad():
            recurrent.source.head.bias[tokenizer.eos] += 100  # its cluster is certain, too
            if tokenizer is BYTES:
                recurrent.source.head.cluster_bias[1] += 100
        (text,) = texts(recurrent, tokenizer, ["w1"])
        assert text.ended == ended
        assert len(text.tokens) == (1 if ended == "eos" else 12)


def test_log_probabilities_are_those_of_the_model_itself() -> None:
    recurrent = model_of(WORDS)
    (text,) = texts(recurrent, WORDS, ["w1 w2"], filters=Filters(temperature=0.5, top_k=3, repetition_penalty=1.5))
    state, found = recurrent.initial_state(1), []
    for token in (WORDS.eos, *text.prompt.tolist(), *text.tokens):
        found.append(torch.tensor([token]))
    logits, wanted = None, []
    for place, token in enumerate(found):
        if place > 2:
            assert logits is not None
            wanted.append(logits[0, token].item())
        logits, state = recurrent.step(token, state)
    assert log_probabilities(recurrent, text) == pytest.approx(wanted, abs=1e-4)


# Repetition


def test_the_penalty_is_a_power_of_the_probability_of_what_was_seen() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0]])
    found = penalise(logits, torch.tensor([[True, False, False]]), 2.0).softmax(-1)
    p = logits.double().softmax(-1)[0]
    wanted = torch.stack([p[0] ** 2, p[1], p[2]])
    torch.testing.assert_close(found[0], wanted / wanted.sum())
    torch.testing.assert_close(penalise(logits + 7, torch.zeros(1, 3, dtype=torch.bool), 3.0).exp(), p[None])


def test_with_a_large_penalty_nothing_is_said_twice_nor_what_the_prompt_says() -> None:
    """Also in company, where rows end and leave."""
    recurrent = model_of(WORDS)
    alone = [
        texts(recurrent, WORDS, [prompt], filters=Filters(repetition_penalty=1e9), max_tokens=20)[0]
        for prompt in ("w3 w4", "w5")
    ]
    for text in alone:
        assert len(set(text.tokens) | set(text.prompt.tolist())) == len(text.tokens) + len(text.prompt)
    together = texts(
        recurrent,
        WORDS,
        ["w3 w4", "w6", "w9"],
        filters=Filters(repetition_penalty=1e9),
        max_tokens=20,
        stop=["w11", "w12"],
    )
    assert together[0].tokens == alone[0].tokens[: len(together[0].tokens)]
    repeated = texts(recurrent, WORDS, ["w3 w4"], max_tokens=20)[0]
    assert len(set(repeated.tokens)) < 20


def test_what_cannot_be_is_one_sentence() -> None:
    recurrent = model_of(WORDS)
    with pytest.raises(UserError, match="a stop string is empty"):
        texts(recurrent, WORDS, ["w1"], stop=[""])
    for penalty in (0.0, -1.0):
        with pytest.raises(UserError, match=f"repetition-penalty is {penalty}, it must be a number greater than 0"):
            texts(recurrent, WORDS, ["w1"], filters=Filters(repetition_penalty=penalty))
    with pytest.raises(UserError, match="not valid Unicode"):
        texts(recurrent, WORDS, ["\udcff"])
