"""What may come of an input: a right answer, or a refusal that says which field is wrong."""

from __future__ import annotations

import re

from cold_backend.config import Settings
from cold_backend.errors import ColdError, InvalidRequestError, UnknownAdapterError
from cold_backend.requests.request import GenerationRequest
from cold_client._protocol import INPUTS

_LONGEST_MESSAGE = 2000
_GUARDS = ("shape", "classification")  # what kernels/guard refuses is no field
_OURS = re.compile(r"([a-z_]+): .+ \[(invalid_argument|not_found)\]$", re.DOTALL)
# What tritonserver says of an input that it does not hand on, without the request's id in front.
_SERVERS = re.compile(
    r"failed to parse the request JSON buffer|attempt to get members for non-object"
    r"|attempt to access JSON|Unable to parse|Expected JSON object|parameter '.*' has invalid type"
    r"|parameter keys starting with 'triton_'|input '.*' already exists|input '.*' has no shape"
    r"|input '.*' batch size does not match|inference request batch-size must be <= 1"
    r"|input byte size mismatch|unexpected shape for input|All input dimensions should be specified"
    r"|inference input '.*' data-type is|unexpected inference input|unable to find data for input"
    r"|(in)?complete string|expected \d+ string elements|unexpected number of string elements"
    r"|out of bounds index 0: request has 0 inputs|string correlation ID cannot be longer"
    r"|generate expects model to produce exactly 1 response",
    re.DOTALL,
)


class WrongVerdictError(Exception):
    """The product did with an input what it must not do."""


def expect(good: object, what: object) -> None:
    """Raises WrongVerdictError unless something holds."""
    if not good:
        raise WrongVerdictError(what)


def check_message(text: str) -> None:
    """Checks the text of a refusal that the server sent."""
    expect("Traceback" not in text and 'File "' not in text, text)
    ours = _OURS.match(text)
    known = ours and ours[1] in (*INPUTS, *_GUARDS)
    expect(known or (not ours and _SERVERS.search(text)), text)


def check_error(error: ColdError) -> None:
    """Checks a refusal before it is sent."""
    expect(isinstance(error, (InvalidRequestError, UnknownAdapterError)), repr(error))
    text = str(error)
    text.encode()  # a half of a surrogate pair could not be sent
    expect(len(text) <= _LONGEST_MESSAGE, text)
    check_message(f"{text} [{error.code.value}]")


def check_request(request: GenerationRequest, settings: Settings, vocab_size: int) -> None:
    """Checks that the engine can do what was accepted."""
    prompt, sampling = request.prompt, request.sampling
    expect(prompt and min(prompt) >= 0 and max(prompt) < vocab_size, "prompt")
    amateur = request.amateur.prompt if request.amateur else prompt
    expect(amateur and min(amateur) >= 0 and max(amateur) < vocab_size, "amateur's prompt")
    longest = max(len(prompt), len(amateur))
    expect(1 <= request.max_tokens <= settings.max_context - longest, "max_tokens")
    mixtures = [request.adapters, *([request.amateur.adapters] if request.amateur else [])]
    for mixture in mixtures:
        names = [name for name, _ in mixture]  # the catalogue knows which there are
        expect(len(mixture) <= 4 and len({*names}) == len(names), "lora_names")
        expect(all(0 < len(name.encode()) <= 64 for name in names), "lora_name")
        expect(all(0 <= strength <= 8 for _, strength in mixture), "lora_scale")
    expect(0 <= request.min_tokens <= request.max_tokens, "min_tokens")
    expect(0 < sampling.alpha <= 1 and 0 < sampling.top_p <= 1, "alpha, top_p")
    expect(0 <= sampling.beta <= 1000 and 0 <= sampling.temperature <= 1000, "beta, temperature")
    expect(0.0009 < sampling.repetition_penalty <= 1000, "repetition_penalty")
    expect(0 <= sampling.seed < 2**64 and sampling.top_k >= 0, "seed, top_k")
    expect(request.priority in (0, 1, 2) and request.deadline_s > 0, "priority, deadline_s")
    expect(all(request.stop_words) and all(request.bad_words), "words")
