"""Text out of a growing list of tokens: whole characters only, cut at stop words."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

_INCOMPLETE = "\ufffd"  # what a decoder shows for bytes that are no character (yet)
_LONGEST = 3  # bytes of a character that lacks at least one
_CONTEXT = 6  # prompt tokens in front, so that the first piece keeps its leading space
_MOST_PENDING = 24  # tokens decoded again and again
_KEPT = 12  # of them, when they are too many: more bytes than what is not certain can have


class Detokenizer:
    """Decodes tokens as they come, so that the pieces joined are the text of all of them.

    A token's text depends on its neighbours, and tokens may end within a character. So a window is
    decoded that starts at tokens whose text is already out; only what can no longer change is
    released. The window is bounded, however long no character gets complete.

    Tokens that stand for one byte each are put together here, because a decoder that meets a bad
    byte takes back the good ones before it, which may have been sent.

    Args:
        decode: token ids to text.
        prompt: ids before the first token.
        silent: ids that have no text and change none.
        byte_values: the byte that an id stands for, of those that stand for one each.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        prompt: Sequence[int],
        *,
        silent: Collection[int] = (),
        byte_values: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self._decode = decode
        self._silent = silent
        self._byte_values = byte_values
        self._broken = False  # the bytes just before are none of text, nor is any that follows
        self._bytes: list[int] = []  # tokens of a character that is not complete
        self._pending: list[int] = []  # other tokens whose text is not all out
        self._settled = self._context(prompt)  # tokens whose text is out
        # Characters out, of those of the settled and pending tokens.
        self._released = len(decode(self._settled).rstrip(_INCOMPLETE))

    def fork(self) -> Detokenizer:
        """Another that has seen the same and goes on by itself."""
        fork = copy.copy(self)
        fork._bytes, fork._pending = [*self._bytes], [*self._pending]
        return fork

    def push(self, token: int) -> str:
        """Adds a token; returns the text that is now certain, maybe none."""
        if token in self._silent:
            return ""
        if token in self._byte_values:
            return self._flush() + self._push_byte(token)
        lost = self._give_up()
        self._broken = False
        return lost + self._push_other(token)

    def _push_byte(self, token: int) -> str:
        if self._broken:
            return _INCOMPLETE
        self._bytes.append(token)
        if not self._is_text(self._bytes):
            if len(self._bytes) <= _LONGEST:
                return ""
            self._broken = True
            return self._give_up()
        piece = self._decode([*self._settled, *self._pending, *self._bytes])[self._released :]
        self._leave_bytes()
        return piece

    def _give_up(self) -> str:
        """The text of bytes that become no character."""
        lost = _INCOMPLETE * len(self._bytes)
        if lost:
            self._leave_bytes()
        return lost

    def _leave_bytes(self) -> None:
        """What was before the bytes stays the context, so that these need not."""
        context = self._pending or self._settled or self._bytes
        self._bytes = []
        self._settle(context)

    def _push_other(self, token: int) -> str:
        self._pending.append(token)
        text = self._decode([*self._settled, *self._pending])
        held = len(text) - len(text.rstrip(_INCOMPLETE))
        if len(self._pending) > _LONGEST:
            held = min(held, _LONGEST)  # a byte at least is in each token
        certain = text[: len(text) - held]
        piece = certain[self._released :]
        self._released = max(self._released, len(certain))
        if piece and not held:
            self._settle(self._pending)
        elif len(self._pending) > _MOST_PENDING:
            self._forget(text)
        return piece

    def _flush(self) -> str:
        """What was held back for bytes that could complete it, when there are none."""
        if not self._pending:
            return ""
        piece = self._decode([*self._settled, *self._pending])[self._released :]
        if piece:
            self._settle(self._pending)
        return piece

    def _settle(self, context: list[int]) -> None:
        """Everything is out: the next window starts with these tokens."""
        self._settled, self._pending = context, []
        self._released = len(self._decode(context))

    def _forget(self, text: str) -> None:
        """Drops the first pending tokens if what is not out yet does not depend on them."""
        kept, rest = self._pending[-_KEPT:], text[self._released :]
        shorter = self._decode([*self._settled, *kept])
        if shorter.endswith(rest):
            self._pending, self._released = kept, len(shorter) - len(rest)

    def _context(self, prompt: Sequence[int]) -> list[int]:
        """The prompt's last tokens; a character that they end within is begun."""
        backwards = (token for token in reversed(prompt) if token not in self._silent)
        run: list[int] = []
        context: list[int] = []
        for token in backwards:
            if token not in self._byte_values:
                context = [token, *islice(backwards, _CONTEXT - 1)][::-1]
                break
            run.append(token)
        run.reverse()
        ends = (len(run) - begun for begun in range(_LONGEST + 1))
        end = next((end for end in ends if end >= 0 and self._is_text(run[:end])), None)
        self._broken = end is None
        self._bytes = run[end:] if end is not None else []
        context = context or run[:end][-2 * (_LONGEST + 1) :]
        while context and self._decode(context).startswith(_INCOMPLETE):
            del context[0]  # the rest of a character that began before
        return context

    def _is_text(self, tokens: Sequence[int]) -> bool:
        try:
            bytes(self._byte_values[token] for token in tokens).decode()
        except UnicodeDecodeError:
            return False
        return True


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
