"""Where logits come from: what one row of a step continues."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cold_backend.contract import Reader
from cold_backend.requests.request import GenerationRequest
from cold_kernels import Mode

_READERS = {
    Mode.COLD: (Reader.EXPERT, Reader.BASE),
    Mode.EXPERT: (Reader.EXPERT,),
    Mode.BASE: (Reader.BASE,),
}


@dataclass(slots=True)
class Context:
    """A reader of a token list, and how far it has read.

    Attributes:
        reader: the language model that runs it.
        adapter: adapter index; None for the base model alone.
        strength: factor of the adapter.
        slot: where its keys and values are.
        fed: tokens that the slot holds.
        copied_from: the slot whose content it continues, and the first token that is not the same
            in both; None if its own slot holds everything.
    """

    reader: Reader
    adapter: int | None
    strength: float
    slot: int
    fed: int = 0
    copied_from: tuple[int, int] | None = None

    def fork(self) -> Context:
        """Another that goes on from here, in the same slot."""
        return replace(self, copied_from=None)

    def move(self, slot: int, start: int) -> None:
        """Goes on in another slot, which has the same tokens before `start`. Mutates: itself."""
        self.copied_from = self.slot, start
        self.slot = slot


def contexts_of(request: GenerationRequest, slot: int, adapter: int | None) -> tuple[Context, ...]:
    """What a request's tokens are chosen from.

    Args:
        request: whose decoding, and what it wants to be told, say which readers it needs.
        slot: of each of them.
        adapter: adapter index of the request's adapter.
    """
    readers = _READERS[Mode.COLD if request.return_contrast else request.sampling.mode]
    strength = request.lora_scale
    expert = adapter if strength else None  # at strength 0 it is the base, to the last bit
    return tuple(
        Context(reader, expert if reader is Reader.EXPERT else None, strength, slot)
        for reader in readers
    )
