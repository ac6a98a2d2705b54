"""Text out of tokens: pieces that join up, whole characters, stop words across borders."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cold_backend.detokenizer import Detokenizer, StopWords
from cold_backend.tokenizer import Tokenizer


@settings(max_examples=80, deadline=None)
@given(prompt=st.text(max_size=8), text=st.text(max_size=40))
def test_pieces_join_to_the_whole(tokenizer: Tokenizer, prompt: str, text: str) -> None:
    before = tokenizer.encode_bare(prompt)
    detokenizer = Detokenizer(tokenizer.decode, before)
    ids = tokenizer.encode_bare(text)
    pieces = [detokenizer.push(token) for token in ids]
    # The model's vocabulary lacks a few bytes, so not every character comes back.
    assume(
        tokenizer.decode(before) == prompt and tokenizer.decode([*before, *ids]) == prompt + text
    )
    assert "".join(pieces) == text


def test_half_a_character_is_held_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_bare("🦜")
    assert len(ids) > 1
    detokenizer = Detokenizer(tokenizer.decode, [])
    pieces = [detokenizer.push(token) for token in ids]
    assert pieces == [""] * (len(ids) - 1) + ["🦜"]


@given(
    text=st.text("abc", max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=6),
    words=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_stop_words_do_not_depend_on_the_pieces(
    text: str, cuts: list[int], words: list[str]
) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    stops = StopWords(words)
    shown, stopped = "", False
    for begin, end in itertools.pairwise(edges):
        if not stopped:
            safe, stopped = stops.push(text[begin:end])
            shown += safe
    if not stopped:
        shown += stops.flush()
    found = [text.find(word) for word in words if word in text]
    if not found:
        assert (shown, stopped) == (text, False)
    else:
        # Pieces may settle on a stop word before a longer one that began earlier is complete.
        assert stopped
        assert text.startswith(shown)
        assert not any(word in shown for word in words)


def test_a_possible_stop_word_is_held_until_it_is_not_one() -> None:
    stops = StopWords(["END"])
    assert stops.push("the E") == ("the ", False)
    assert stops.push("N") == ("", False)
    assert stops.push("T") == ("ENT", False)
    assert stops.push(" END!") == (" ", True)


@pytest.mark.parametrize("words", [[], ["x"]])
def test_flush_gives_back_what_was_held(words: list[str]) -> None:
    stops = StopWords([*words, "abc"])
    assert stops.push("..ab") == ("..", False)
    assert stops.flush() == "ab"
    assert stops.flush() == ""
