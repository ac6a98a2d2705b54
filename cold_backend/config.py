"""Settings of a server, from the command line or a TOML file to every model process."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cold_backend.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "npu")
DTYPES = ("auto", "float32", "bfloat16", "float16")
EXECUTIONS = ("auto", "ensemble", "fused")
LOG_FORMATS = ("text", "json")

# More than a full context of text has in any script: 3 to 5 in English and in code, up to 11 in
# scripts of 3 bytes a character. Runs of one character alone have more: a token may be 128 spaces.
BYTES_PER_TOKEN = 16
_FEWEST_PROMPT_BYTES = 4096  # that a limit which nobody set allows

_ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server serves and within which limits.

    Attributes:
        base_model: directory of a Hugging Face causal language model (safetensors).
        adapters: PEFT LoRA directories by the name that requests use; order is kept.
        adapters_dir: folder of further ones, each a directory by its name, that are read when a
            request asks for them.
        max_adapters: of those from adapters_dir, how many are kept in memory; at least
            max_sequences, which 0 stands for.
        max_lora_rank: of those from adapters_dir.
        default_adapter: used where a request names none; the first one if empty.
        device: one of DEVICES; `auto` takes an NPU, else a GPU, else the CPU.
        dtype: one of DTYPES; `auto` is float32 on a CPU and bfloat16 elsewhere.
        execution: one of EXECUTIONS; `auto` is fused where both language models share a device.
        max_sequences: how many requests run at the same time; beams count as one each.
        max_context: tokens of a request, prompt and output together.
        kv_cache_bytes: memory for keys and values, in an ensemble of both models together; 0 takes
            a share of what is free when the models have been loaded.
        prefix_reuse: whether requests share what has been computed for equal beginnings of prompts.
        max_step_tokens: tokens of one step over all sequences; longer prompts are cut in chunks.
        max_prompt_bytes: a larger prompt, as text or as JSON of messages, is refused unread; 0 is
            16 bytes for each token of max_context, and 4096 at least.
        max_queue: requests that may wait.
        max_wait_s: how long a request may wait before it runs, in seconds.
        drain_timeout_s: how long running requests may go on after SIGTERM, in seconds.
        start_timeout_s: how long the models may take to load, in seconds.
        accept_timeout_s: a server that hangs in taking in a request is restarted after so long.
        step_timeout_s: likewise one that hangs in a step, in seconds. The first steps may compile.
        threads: CPU threads of each model process that computes; 0 shares the cores among them.
        kernels: implementation of the ops in cold_kernels; `auto` takes the best for the device.
        log_format: one of LOG_FORMATS.
        log_prompts: write prompts into the log.
        trace_url: OTLP endpoint of a collector of OpenTelemetry traces; nothing is traced if empty.
        trace_every: which requests are traced that do not come with a trace of their own: every
            n-th, or none if 0.
    """

    base_model: str
    adapters: dict[str, str] = field(default_factory=dict)
    adapters_dir: str = ""
    max_adapters: int = 0
    max_lora_rank: int = 16
    default_adapter: str = ""
    device: str = "auto"
    dtype: str = "auto"
    execution: str = "auto"
    max_sequences: int = 16
    max_context: int = 2048
    kv_cache_bytes: int = 0
    prefix_reuse: bool = True
    max_step_tokens: int = 256
    max_prompt_bytes: int = 0
    max_queue: int = 256
    max_wait_s: float = 30.0
    drain_timeout_s: float = 30.0
    start_timeout_s: float = 1800.0
    accept_timeout_s: float = 20.0
    step_timeout_s: float = 300.0
    threads: int = 0
    kernels: str = "auto"
    log_format: str = "text"
    log_prompts: bool = False
    trace_url: str = ""
    trace_every: int = 1

    def __post_init__(self) -> None:
        _one_of("device", self.device, DEVICES)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("execution", self.execution, EXECUTIONS)
        _within("max_sequences", self.max_sequences, 1, 1024)
        _within("max_context", self.max_context, 2, 1 << 20)
        _within("kv_cache_bytes", self.kv_cache_bytes, 0, 1 << 50)
        _within("max_step_tokens", self.max_step_tokens, self.max_sequences, 1 << 20)
        _within("max_prompt_bytes", self.max_prompt_bytes, 0, 1 << 30)
        _within("max_queue", self.max_queue, 1, 1 << 20)
        _within("max_wait_s", self.max_wait_s, 0.1, 86400)
        _within("drain_timeout_s", self.drain_timeout_s, 0, 86400)
        _within("start_timeout_s", self.start_timeout_s, 1, 86400)
        _within("accept_timeout_s", self.accept_timeout_s, 1, 86400)
        _within("step_timeout_s", self.step_timeout_s, 1, 86400)
        _within("threads", self.threads, 0, 1024)
        _one_of("log_format", self.log_format, LOG_FORMATS)
        _within("max_lora_rank", self.max_lora_rank, 1, 4096)
        if self.max_adapters:
            _within("max_adapters", self.max_adapters, self.max_sequences, 1 << 16)
        if self.trace_url and not self.trace_url.startswith(("http://", "https://")):
            raise ConfigError(f"trace_url: must be an http or https URL, got {self.trace_url!r}")
        _within("trace_every", self.trace_every, 0, 1 << 30)
        for name in self.adapters:
            if not is_adapter_name(name):
                raise ConfigError(
                    f"adapters: a name is 1 to 64 letters, digits, '.', '_' or '-', not {name!r}"
                )
        if not self.default_adapter and self.adapters:
            object.__setattr__(self, "default_adapter", next(iter(self.adapters)))
        if self.default_adapter and self.default_adapter not in self.adapters:
            raise ConfigError(
                f"default_adapter: {self.default_adapter!r} is not among the adapters"
            )

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names by adapter index, the index that steps use."""
        return tuple(self.adapters)

    @property
    def adapter_room(self) -> int:
        """How many adapters of adapters_dir the models hold."""
        return (self.max_adapters or self.max_sequences) if self.adapters_dir else 0

    @property
    def prompt_bytes(self) -> int:
        """The largest prompt that is tokenised."""
        most = BYTES_PER_TOKEN * self.max_context
        return self.max_prompt_bytes or max(_FEWEST_PROMPT_BYTES, most)

    def save(self, path: Path) -> None:
        """Writes the settings as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2))


def is_adapter_name(name: str) -> bool:
    """Whether an adapter may have that name, which can then be no path to elsewhere."""
    return _ADAPTER_NAME.fullmatch(name) is not None


def load_settings(path: Path) -> Settings:
    """Reads settings that `Settings.save` wrote.

    Raises:
        ConfigError: the file is unreadable or holds an unknown or ill-typed key.
    """
    return settings_from(read_settings_file(path))


def read_settings_file(path: Path) -> dict[str, Any]:
    """Reads a .toml or .json file into a plain dict.

    Raises:
        ConfigError: the file is missing or not valid TOML or JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a table of settings")
    return values


def settings_from(values: dict[str, Any]) -> Settings:
    """Builds settings from plain values.

    Raises:
        ConfigError: an unknown key, a missing base model, or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    for name, value in values.items():
        if name not in fields:
            raise ConfigError(f"{name}: unknown setting; known are {', '.join(fields)}")
        _check_type(name, value, str(fields[name].type))
    if "base_model" not in values:
        raise ConfigError("base_model: is missing")
    return Settings(**values)


def _check_type(name: str, value: object, annotation: str) -> None:
    if annotation.startswith("dict"):
        good = isinstance(value, dict) and all(
            isinstance(k, str) and isinstance(v, str) for k, v in value.items()
        )
        wanted = "a table of strings"
    elif annotation == "int":
        good = isinstance(value, int) and not isinstance(value, bool)
        wanted = "an integer"
    elif annotation == "float":
        good = isinstance(value, int | float) and not isinstance(value, bool)
        wanted = "a number"
    elif annotation == "bool":
        good = isinstance(value, bool)
        wanted = "true or false"
    else:
        good = isinstance(value, str)
        wanted = "a string"
    if not good:
        raise ConfigError(f"{name}: must be {wanted}, got {value!r}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: must be one of {', '.join(allowed)}, got {value!r}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name}: must be between {low} and {high}, got {value}")
