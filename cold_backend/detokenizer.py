"""Text out of a growing list of tokens: whole characters only, cut at stop words."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a decoder shows for bytes that are no character (yet)
_CONTEXT = 6  # prompt tokens in front, so that the first piece keeps its leading space


class Detokenizer:
    """Decodes tokens as they come, so that the pieces joined are the text of all of them.

    Byte-level tokens may end within a character, and a token's text depends on its neighbours.
    So a window is decoded that starts at tokens whose text is already out; only what can no
    longer change is released.

    Args:
        decode: token ids to text.
        prompt: ids before the first token.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._window = list(prompt[-_CONTEXT:])
        while self._window and decode(self._window).startswith(_INCOMPLETE):
            del self._window[0]  # the rest of a character that began before the window
        self._settled = len(self._window)  # tokens of the window whose text is out in full
        self._released = len(decode(self._window).rstrip(_INCOMPLETE))  # characters out

    def fork(self) -> Detokenizer:
        """Another that has seen the same and goes on by itself."""
        fork = copy.copy(self)
        fork._window = [*self._window]
        return fork

    def push(self, token: int) -> str:
        """Adds a token; returns the text that is now certain, maybe none."""
        self._window.append(token)
        text = self._decode(self._window)
        certain = text.rstrip(_INCOMPLETE)
        piece = certain[self._released :]
        self._released = max(self._released, len(certain))
        if piece and len(certain) == len(text):
            # Everything is out: the next window starts with the tokens just settled.
            self._window = self._window[self._settled :]
            self._settled = len(self._window)
            self._released = len(self._decode(self._window))
        return piece


class StopWords:
    """Finds stop words in streamed text, across the borders of its pieces.

    Args:
        words: not empty.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._held = ""

    def fork(self) -> StopWords:
        """Another that has seen the same and goes on by itself."""
        return copy.copy(self)

    def push(self, piece: str) -> tuple[str, bool]:
        """Adds text; returns what is safe to show and whether a stop word has come.

        What could be the beginning of a stop word is held back. Text from the stop word on is
        dropped.
        """
        text = self._held + piece
        found = [at for at in (text.find(word) for word in self._words) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """The text held back, when nothing can follow any more."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of the text that a stop word begins with."""
        longest = max((len(word) for word in self._words), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(word.startswith(text[-length:]) for word in self._words):
                return length
        return 0
