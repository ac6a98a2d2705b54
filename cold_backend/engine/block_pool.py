"""The blocks of a pool: what holds them, what is kept for reuse, what is promised."""

from __future__ import annotations

from collections.abc import Iterable


class BlockPool:
    """Lends blocks of keys and values to contexts.

    A block may have a key, by which other contexts find it. One that nobody holds any more is kept
    until its room is needed, least recently used first. Blocks are promised before they are taken,
    so that a context which runs cannot run out.

    Args:
        blocks: how many there are.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.evictions = 0
        self._holders = [0] * blocks
        self._empty = list(reversed(range(blocks)))
        self._idle: dict[int, None] = {}  # with keys, held by nobody; least recently used first
        self._keys: dict[int, bytes] = {}
        self._found: dict[bytes, int] = {}
        self._promised = 0

    @property
    def room(self) -> int:
        """Blocks that can still be promised."""
        return len(self._empty) + len(self._idle) - self._promised

    @property
    def held(self) -> int:
        """Blocks that contexts hold."""
        return self.blocks - len(self._empty) - len(self._idle)

    @property
    def kept(self) -> int:
        """Blocks that are kept for reuse alone."""
        return len(self._idle)

    def promise(self, count: int) -> None:
        """Keeps room for so many. There must be as much; a negative count gives some back."""
        self._promised += count

    def take(self) -> int:
        """A block that was promised, for one holder, with whatever is in it."""
        self._promised -= 1
        if self._empty:
            block = self._empty.pop()
        else:
            block = next(iter(self._idle))
            del self._idle[block]
            self.forget([block])
            self.evictions += 1
        self._holders[block] = 1
        return block

    def hold(self, blocks: Iterable[int]) -> None:
        """Adds a holder to each block, which holds something already."""
        for block in blocks:
            self._idle.pop(block, None)
            self._holders[block] += 1

    def release(self, blocks: Iterable[int]) -> int:
        """Takes a holder from each block of a context; says how many nobody holds any more.

        The last of them will be the first to go: of a context it is the beginning that others have.
        """
        freed = 0
        for block in reversed([*blocks]):
            self._holders[block] -= 1
            if not self._holders[block]:
                freed += 1
                if block in self._keys:
                    self._idle[block] = None
                else:
                    self._empty.append(block)
        return freed

    def forget(self, blocks: Iterable[int]) -> None:
        """Has nobody find these any more, none of which is idle."""
        for block in blocks:
            key = self._keys.pop(block, None)
            if key is not None:
                del self._found[key]

    def is_held(self, block: int) -> bool:
        """Whether any context holds a block."""
        return self._holders[block] > 0

    def find(self, key: bytes) -> int | None:
        """The block of a key, if there is one."""
        return self._found.get(key)

    def keep(self, block: int, key: bytes) -> None:
        """Says what a held block has in it for good. Only one block of a key is found."""
        if block not in self._keys and key not in self._found:
            self._keys[block] = key
            self._found[key] = block
