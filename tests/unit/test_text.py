"""Text out of tokens: pieces that join up, whole characters, stop words across borders."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cold_backend.text.detokenizer import Detokenizer, StopWords
from cold_backend.text.tokenizer import Tokenizer
from tests.tokenizers import BYTES, KINDS, make_tokenizer

LOST = "\ufffd"
VOCAB = 400  # of the models; more than any of the tokenizers has


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    path = tmp_path_factory.mktemp("tokenizers")
    return {kind: Tokenizer(str(make_tokenizer(kind, path / kind)), VOCAB) for kind in KINDS}


def joined(tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int]) -> str:
    detokenizer = tokenizer.detokenizer(prompt)
    return "".join(detokenizer.push(token) for token in ids)


def ids_of(tokenizer: Tokenizer, *tokens: str) -> list[int]:
    return [tokenizer._tokenizer.convert_tokens_to_ids(token) for token in tokens]


def spelled(text: str) -> list[str]:
    """Tokens of its bytes."""
    return [BYTES[byte] for byte in text.encode()]


def has_lost_bytes(tokenizer: Tokenizer, ids: Sequence[int]) -> bool:
    """Whether tokens that stand for bytes make no text."""
    values = tokenizer._byte_values
    heard = [i for i in ids if i not in tokenizer._silent]
    runs = itertools.groupby(heard, lambda i: i in values)
    texts = [bytes(values[i] for i in run) for is_bytes, run in runs if is_bytes]
    return any(LOST in text.decode(errors="replace") for text in texts)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[str, list[int], list[int]]:
    """A kind, a prompt's ids and an answer's, with many bytes that make characters."""
    kind = draw(st.sampled_from([*KINDS]))
    characters = st.sampled_from(["▁", "🦜", "é", "A", " ", "\n", LOST])
    token = st.integers(0, 300).map(lambda i: [i])
    word = characters.map(lambda c: [3 + byte for byte in c.encode()])  # where bytes are tokens
    ids = st.lists(token | word, max_size=12).map(lambda parts: [*itertools.chain(*parts)])
    return kind, draw(ids), draw(ids)


@settings(max_examples=600, deadline=None)
@given(conversations())
def test_pieces_join_to_what_the_tokenizer_says(
    kinds: dict[str, Tokenizer], conversation: tuple[str, list[int], list[int]]
) -> None:
    kind, prompt, ids = conversation
    tokenizer = kinds[kind]
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *ids])
    assume(not before.endswith(LOST) and whole.startswith(before))
    assume(not has_lost_bytes(tokenizer, [*prompt, *ids]))
    # The end of a text may still be the beginning of a character.
    assert joined(tokenizer, prompt, ids).rstrip(LOST) == whole[len(before) :].rstrip(LOST)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=9), max_size=6))
def test_bytes_that_are_no_text_take_nothing_back(
    kinds: dict[str, Tokenizer], runs: list[bytes]
) -> None:
    """The tokenizer would show none of the bytes around them either, which have been sent."""

    def shown(run: bytes) -> str:
        begin, text = 0, ""
        for end in range(1, len(run) + 1):
            if is_text(run[begin:end]):
                text += run[begin:end].decode()
                begin = end
            elif end - begin > 3:
                break
        return text + LOST * (len(run) - begin)

    tokenizer = kinds["gemma"]
    (a,) = ids_of(tokenizer, "a")
    ids = [i for run in runs for i in (*(3 + byte for byte in run), a)]
    assert joined(tokenizer, [a], ids) == "".join(shown(run) + "a" for run in runs)


def is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("before", [[], ["a"], ["▁the", "▁"], ["</s>"] * 9, ["a", *["<s>"] * 7]])
@pytest.mark.parametrize("kind", ["llama", "gemma", "metaspace", "metaspace first"])
def test_a_character_of_bytes_that_words_begin_with_is_kept(
    kind: str, before: list[str], kinds: dict[str, Tokenizer]
) -> None:
    tokenizer = kinds[kind]
    prompt = ids_of(tokenizer, *before)
    for text in ("▁", "▁▁", "▁▁▁▁", " ▁", "▁a▁", "\n▁🦜▁"):
        ids = ids_of(tokenizer, "▁a", *spelled(text), "▁the", "b", *spelled(text), "▁▁", "a")
        whole = tokenizer.decode([*prompt, *ids])
        assert joined(tokenizer, prompt, ids) == whole[len(tokenizer.decode(prompt)) :]
        assert "a" in whole


def test_a_line_break_of_one_byte_is_out_at_once(kinds: dict[str, Tokenizer]) -> None:
    detokenizer = kinds["llama"].detokenizer([])
    pieces = [detokenizer.push(i) for i in ids_of(kinds["llama"], "a", "<0x0A>", "b", "<0xC3>")]
    assert pieces == ["a", "\n", "b", ""]


@pytest.mark.parametrize(
    ("kind", "token"),
    [
        ("byte level", "ð"),
        ("byte level", "¦ľ"),
        ("byte level", "<s>"),
        ("llama", "<0xE2>"),
        ("llama", "<0x41>"),
        ("gemma", LOST),
        ("unigram", "▁"),
        ("word piece", "##"),
        ("suffixed", "</w>"),
    ],
)
def test_no_text_makes_a_token_cost_more_and_more(
    kind: str, token: str, kinds: dict[str, Tokenizer]
) -> None:
    longest = 0
    tokenizer = kinds[kind]

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return tokenizer.decode(ids)

    options: dict[str, Any] = {
        "silent": tokenizer._silent,
        "byte_values": tokenizer._byte_values,
    }
    detokenizer = Detokenizer(decode, [], **options)
    ids = ids_of(tokenizer, token) * 500
    pieces = [detokenizer.push(i) for i in ids]
    whole = tokenizer.decode(ids)
    assert whole.startswith("".join(pieces))
    assert len(whole) - len("".join(pieces)) <= 3
    assert longest < 60


def test_ids_that_the_tokenizer_does_not_know_have_no_text(kinds: dict[str, Tokenizer]) -> None:
    tokenizer = kinds["llama"]
    (the,) = ids_of(tokenizer, "▁the")
    assert joined(tokenizer, [the], [VOCAB - 1] * 40 + [the]) == " the"


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
