"""Where a token may look, as a model's own code says it.

A transformers model describes each of its masks by a function of two positions and asks the
attention implementation to make a tensor of it. Ours keeps the function: a packed forward has
several sequences at different positions, and each gets its own part of the mask from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from cold_backend.refusal import UnsupportedError

# (sequence of the batch, head, query's position, key's position) -> whether it may look there.
_MaskFunction = Callable[[int, int, Tensor, Tensor], Tensor]
_NOT_OF_POSITIONS = "a mask that depends on more than positions is not supported"


class _MaskError(UnsupportedError, AttributeError):
    """For the model's code no such attribute, for ours a reason to refuse the model."""


class MaskRule:
    """One of a forward's masks, for any part of a sequence.

    Args:
        function: of positions.
        device: where it computes; it may hold tensors there.
    """

    def __init__(self, function: _MaskFunction, device: torch.device | str) -> None:
        self._function = function
        self._device = device
        self._parts: dict[tuple[int, int], tuple[int, Tensor | None]] = {}

    def part(self, start: int, end: int) -> tuple[int, Tensor | None]:
        """What the tokens from start up to end, exclusive, may look at.

        Returns:
            The first position that any of them sees, and [end - start, end - first] booleans, true
            where a token may look; None where it may everywhere.
        """
        if (start, end) not in self._parts:
            self._parts[start, end] = self._make(start, end)
        return self._parts[start, end]

    def __getattr__(self, name: str) -> Any:
        raise _MaskError(f"a model that reads its attention mask ({name}) is not supported")

    def __getitem__(self, _: object) -> Any:
        raise _MaskError("a model that reads its attention mask is not supported")

    def _make(self, start: int, end: int) -> tuple[int, Tensor | None]:
        if self._function is causal_mask_function and end - start == 1:
            return 0, None
        keys = torch.arange(end, device=self._device)
        mask = _computed(self._function, keys[start:, None], keys[None])
        mask = mask.expand(end - start, end)
        first = int(mask.any(0).to(torch.uint8).argmax())
        mask = mask[:, first:]
        return first, None if mask.all() else mask


def window_rule(window: int | None, device: torch.device) -> MaskRule:
    """Causal, and no further back than a window, itself included."""
    if window is None:
        return MaskRule(causal_mask_function, device)
    return MaskRule(lambda _, __, query, key: (key <= query) & (key > query - window), device)


def keep_rule(
    *,
    mask_function: _MaskFunction,
    device: torch.device | str = "cpu",
    allow_is_bidirectional_skip: bool | None = None,
    use_vmap: bool = False,
    **_: Any,
) -> MaskRule:
    """What transformers calls to make a mask.

    Raises:
        UnsupportedError: the mask depends on more than positions, or lets tokens see later ones.
    """
    if torch.device(device).type == "meta":
        device = "cpu"  # without values, in `try_architecture`, positions have theirs all the same
    if use_vmap:
        raise UnsupportedError(_NOT_OF_POSITIONS)
    if allow_is_bidirectional_skip is not None or _sees_later(mask_function, device):
        raise UnsupportedError("attention that is not causal is not supported")
    return MaskRule(mask_function, device)


def _sees_later(function: _MaskFunction, device: torch.device | str) -> bool:
    if function is causal_mask_function:
        return False
    first = torch.zeros(1, dtype=torch.int64, device=device)
    return bool(_computed(function, first, first + 1).any())


def _computed(function: _MaskFunction, queries: Tensor, keys: Tensor) -> Tensor:
    try:
        return function(0, 0, queries, keys)
    except IndexError as error:  # it looks positions up in what it knows of this forward's tokens
        raise UnsupportedError(_NOT_OF_POSITIONS) from error
