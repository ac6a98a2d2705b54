"""No garbage is collected while a model starts.

Imported before all else that takes long: a fifth of the time until a model is loaded would go into
looking for garbage among a million objects that stay.
"""

from __future__ import annotations

import gc

gc.disable()


def collect_from_now_on() -> None:
    """The model is loaded: what there is now stays, and is never looked at again."""
    gc.freeze()
    gc.enable()
