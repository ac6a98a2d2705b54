"""The options of `cold-server`."""

from __future__ import annotations

import argparse
from pathlib import Path

from cold_backend import __version__
from cold_backend.config import DEVICES, DTYPES, EXECUTIONS, LOG_FORMATS

_TIMEOUTS = {
    "drain": "see below; default: 30",
    "start": "longest time to load the models; default: 1800",
    "accept": "a server that hangs so long taking in a request is restarted; default: 20",
    "step": "likewise one that hangs in a step; default: 300",
}
_EPILOG = """\
Options override the file. It holds the same settings with underscores:

  base_model = "models/SmolLM2-135M-Instruct"
  max_sequences = 32
  http_port = 8000
  [adapters]
  equations = "adapters/equations"

What follows a bare -- goes to tritonserver as it is, TLS options for instance.
SIGTERM and SIGHUP let running requests end, within the drain timeout; Ctrl-C ends them at once,
after SIGTERM as well. A server of which a process dies or hangs is restarted.
Exit code: 0 after Ctrl-C, SIGTERM or SIGHUP, 1 if the server cannot start, 2 for bad usage.
"""


def _adapter(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be NAME=DIR, got {text!r}")
    return name, path


def options_parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = argparse.ArgumentParser(
        prog="cold-server",
        description="Serves a base model and LoRA adapters with contrastive decoding (CoLD).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--base-model", metavar="DIR", help="Hugging Face causal language model, safetensors")
    add(
        "--adapter",
        type=_adapter,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="PEFT LoRA adapter and the name requests use for it; may be repeated",
    )
    add(
        "--adapters-dir",
        metavar="DIR",
        help="folder of further adapters, a directory each, read when a request names one",
    )
    add(
        "--max-adapters",
        type=int,
        metavar="N",
        help="of those, how many stay in memory; default: as many as requests run",
    )
    add("--max-lora-rank", type=int, metavar="N", help="of those; default: 16")
    add("--default-adapter", metavar="NAME", help="default: the first adapter")
    add("--config", type=Path, metavar="FILE.toml", help="settings from a file, see below")
    add("--host", metavar="ADDRESS", help="default: 127.0.0.1")
    for kind, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        add(f"--{kind}-port", type=int, metavar="PORT", help=f"default: {port}")
    add("--device", choices=DEVICES, help="default: auto, an NPU, else a GPU, else the CPU")
    add("--dtype", choices=DTYPES, help="default: auto, float32 on a CPU, else bfloat16")
    add("--execution", choices=EXECUTIONS, help="default: auto, fused on one device")
    add("--max-sequences", type=int, metavar="N", help="requests that run at once; default: 16")
    add(
        "--max-context",
        type=int,
        metavar="N",
        help="tokens of prompt and output; default: the model's limit, or what there is memory for",
    )
    add(
        "--kv-cache-bytes",
        type=int,
        metavar="N",
        help="memory for keys and values; default: 0, a share of what is free after loading",
    )
    add(
        "--no-prefix-reuse",
        dest="prefix_reuse",
        action="store_const",
        const=False,
        help="compute every prompt anew, also where another one began like it",
    )
    add("--max-step-tokens", type=int, metavar="N", help="tokens of one step; default: 256")
    add(
        "--max-prompt-bytes",
        type=int,
        metavar="N",
        help="larger prompts are refused unread; default: 16 for each token of the context",
    )
    add("--max-queue", type=int, metavar="N", help="requests that may wait; default: 256")
    add("--max-wait-s", type=float, metavar="S", help="longest wait before it runs; default: 30")
    for name, meaning in _TIMEOUTS.items():
        add(f"--{name}-timeout-s", type=float, metavar="S", help=meaning)
    add(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads; of each language model in an ensemble",
    )
    add("--kernels", metavar="NAME", help="implementation of the ops; default: auto")
    add("--log-format", choices=LOG_FORMATS, help="default: text")
    add(
        "--log-prompts",
        action="store_const",
        const=True,
        help="write prompts into the log; default: no",
    )
    add(
        "--trace-url",
        metavar="URL",
        help="send OpenTelemetry traces to a collector's OTLP endpoint",
    )
    add(
        "--trace-every",
        type=int,
        metavar="N",
        help="0 traces only requests that carry a traceparent header; default: 1, every request",
    )
    add("--verbose", action="store_true", help="show tritonserver's own log")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser
