"""`cold-server` whose `cold` hangs in every request while the file exists that COLD_HANG names."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from cold_backend.server import cli, repository

_HANG = f"""
import os, time
_accept = accept

def _hang(*arguments):
    while os.path.exists({os.environ.get("COLD_HANG", "")!r}):
        time.sleep(0.05)
    return _accept(*arguments)

accept = _hang
"""


def main() -> int:
    """As `cold-server`'s."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "models"
        shutil.copytree(repository._source(), copy)
        with (copy / "cold/1/model.py").open("a") as file:
            file.write(_HANG)
        repository._source = lambda: copy
        return cli.main()


if __name__ == "__main__":
    sys.exit(main())
