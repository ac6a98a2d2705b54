"""The CoLD server: requests, scheduling, decoding, language models, adapters.

`Cold` is the way in for a program that wants no server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cold_backend.offline import Cold as Cold

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Late: the server's own programs start without torch.
    if name == "Cold":
        from cold_backend.offline import Cold

        return Cold
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
