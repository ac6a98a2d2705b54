"""A disk that hangs, is slow or fails, for some folders and one server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).parent / "disk.c"
STATES = ("well", "hangs", "slow", "errors")


class Disk:
    """What a server that is started in `environment` sees of some folders.

    Args:
        beginning: of the paths of what is on the disk.
        scratch: where the library and its state are kept.
    """

    def __init__(self, beginning: Path, scratch: Path) -> None:
        self._state = scratch / "disk_state"
        library = scratch / "disk.so"
        compile_it: list[str | Path] = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-o"]
        subprocess.run([*compile_it, library, _SOURCE, "-ldl"], check=True)
        self.environment = {
            "LD_PRELOAD": str(library),
            "COLD_DISK_FOLDER": str(beginning),
            "COLD_DISK_STATE": str(self._state),
        }
        self.become("well")

    def become(self, state: str) -> None:
        """Changes how the disk is: one of STATES; what hangs goes on once it no longer does."""
        if state not in STATES:
            raise ValueError(f"state: must be one of {', '.join(STATES)}, got {state!r}")
        self._state.write_text(state)
