"""CoLD the slow and obvious way: transformers and PEFT, two forwards a token, float32.

Shares no code with cold_backend or cold_kernels.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

Strengths = tuple[float, float]  # of the adapter and the second


@dataclass(frozen=True)
class Decoding:
    """`base`, `greedy`, or `cold` with alpha and beta; the strengths of adapter and second adapter.

    Of the amateur: its prompt, if it is not the expert's, and its strengths. With `divergence` beta
    is times the Jensen-Shannon divergence of expert and amateur, in bits.
    """

    name: str
    alpha: float = 0.1
    beta: float = 0.5
    lora_scale: float = 1.0
    second_scale: float = 0.0
    amateur_ids: tuple[int, ...] = ()
    amateur_scale: float = 0.0
    amateur_second_scale: float = 0.0
    divergence: bool = False


@dataclass(frozen=True)
class Beams:
    """Settings of transformers' beam search; `early_stopping` is true, false or never."""

    width: int
    length_penalty: float
    early_stopping: str
    min_tokens: int = 0
    cold: Decoding | None = None  # alpha and beta if it ranks by the contrast


def distribution(expert: torch.Tensor, base: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """Log-probabilities [n, vocab] of the next token, from logits [n, vocab].

    Contrast shares out anew the expert's probability of the valid set.
    """
    if decoding.name == "base":
        return base.double().log_softmax(1)
    expert, base = expert.double(), base.double()
    probs = expert.softmax(1)
    if decoding.name == "greedy":
        return probs.log()
    valid = probs >= decoding.alpha * probs.max(1, keepdim=True).values * (1 - 1e-6)
    scores = expert + strength_of(decoding, expert, base) * (expert - base)
    contrast = scores.masked_fill(~valid, -math.inf).softmax(1)
    mass = probs.masked_fill(~valid, 0).sum(1, keepdim=True)
    return torch.where(valid, mass * contrast, probs).log()


def strength_of(decoding: Decoding, expert: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Beta [n, 1] at the step of each of the logits [n, vocab]."""
    if not decoding.divergence:
        return torch.full((len(expert), 1), decoding.beta)
    p, q = expert.double().softmax(1), base.double().softmax(1)
    middle = (p + q) / 2
    kl = (torch.special.xlogy(x, x) - torch.special.xlogy(x, middle) for x in (p, q))
    return decoding.beta * sum(kl, torch.zeros(())).sum(1, keepdim=True) / (2 * math.log(2))


class Reference:
    """Decodes greedily; computes each prompt once, and remembers what it has decoded already.

    Args:
        base_model: directory.
        adapter: directory.
        memory: directory of what has been decoded, which several processes may share.
        second: directory of another adapter; None if no decoding has one.
    """

    def __init__(
        self, base_model: Path, adapter: Path, memory: Path, second: Path | None = None
    ) -> None:
        from peft import PeftModel  # seconds, which only those wait for who need it

        base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        self._model: Any = PeftModel.from_pretrained(base, adapter, adapter_name="first").eval()
        if second:
            self._model.load_adapter(second, adapter_name="second")
        self._active = ["first"]
        eos = base.generation_config.eos_token_id
        self.eos = set(eos if isinstance(eos, list) else [eos])
        self._memory = memory
        self._prompts: dict[tuple[tuple[int, ...], Strengths], tuple[torch.Tensor, Any]] = {}

    def decode(
        self, ids: tuple[int, ...], decoding: Decoding, count: int, answer: Sequence[int] = ()
    ) -> list[int]:
        """The tokens after the prompt, an end-of-sequence token included.

        Args:
            answer: what may be these tokens. If it is, one forward over all of it says so, in place
                of one a token; if not, what is right is decoded in any case.
        """

        def compute() -> list[int]:
            if self._is_answer(ids, decoding, count, [*answer]):
                return [*answer]
            return self._decode(ids, decoding, count)

        return self._remembered((ids, decoding, count), compute)

    def search(self, ids: tuple[int, ...], beams: Beams, count: int) -> list[int]:
        """transformers' beam search over the expert; by the contrast through a processor."""
        key = (ids, beams, count)
        return self._remembered(key, lambda: self._search(ids, beams, count))

    def logits(self, ids: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Expert's and base's logits after the prompt, [vocab] each."""
        expert, base = self.all_logits(ids)
        return expert[-1], base[-1]

    @torch.inference_mode()
    def all_logits(self, ids: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Expert's and base's logits after each token, [n, vocab] each."""
        expert, base = (self._forward(ids, None, (strength, 0.0)) for strength in (1.0, 0.0))
        return expert.logits[0], base.logits[0]

    def _remembered(self, key: object, compute: Callable[[], list[int]]) -> list[int]:
        file = self._memory / hashlib.sha256(repr(key).encode()).hexdigest()
        if not file.exists():
            part = file.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps(compute()))
            part.rename(file)
        tokens: list[int] = json.loads(file.read_text())
        return tokens

    @torch.inference_mode()
    def _decode(self, ids: tuple[int, ...], decoding: Decoding, count: int) -> list[int]:
        """Token by token."""
        writing = _Writing(self, ids, decoding)
        output: list[int] = []
        while True:
            (token,) = writing.choices
            output.append(token)
            if self._is_over(output, count):
                return output
            writing.feed([token])

    @torch.inference_mode()
    def _is_answer(
        self, ids: tuple[int, ...], decoding: Decoding, count: int, answer: list[int]
    ) -> bool:
        """Whether each token is the choice after the prompt and the tokens before it."""
        ends = [
            number for number in range(len(answer)) if self._is_over(answer[: number + 1], count)
        ]
        if ends != [len(answer) - 1]:
            return False
        writing = _Writing(self, ids, decoding)
        choices = writing.choices
        if answer[:-1]:
            writing.feed(answer[:-1])
            choices += writing.choices
        return choices == answer

    def _is_over(self, output: list[int], count: int) -> bool:
        return output[-1] in self.eos or len(output) == count

    @torch.inference_mode()
    def _search(self, ids: tuple[int, ...], beams: Beams, count: int) -> list[int]:
        contrast = _Contrast(self._model, beams.cold, len(ids)) if beams.cold else None
        stopping = {"true": True, "false": False}.get(beams.early_stopping, "never")
        cache = None
        if len(ids) > 1:
            _, cache = self._after(ids, (1.0, 0.0))
            cache.crop(-1)  # generate computes the last token itself
            cache.batch_repeat_interleave(beams.width)
        with self._scaled({"first": 1.0}):
            found: list[int] = self._model.generate(
                input_ids=torch.tensor([ids]),
                past_key_values=cache,
                num_beams=beams.width,
                do_sample=False,
                length_penalty=beams.length_penalty,
                early_stopping=stopping,
                min_new_tokens=beams.min_tokens,
                max_new_tokens=count,
                logits_processor=LogitsProcessorList([contrast] if contrast else []),
            )[0, len(ids) :].tolist()
        return found

    def _after(self, ids: tuple[int, ...], strengths: Strengths) -> tuple[torch.Tensor, Any]:
        """Logits after the prompt, [1, vocab], and a KV cache of it that may be changed."""
        key = (ids, strengths)
        if key not in self._prompts:
            out = self._forward(ids, None, strengths)
            self._prompts[key] = out.logits[0, -1:].clone(), out.past_key_values
        logits, cache = self._prompts[key]
        return logits, copy.deepcopy(cache)

    def _forward(self, ids: Sequence[int], cache: Any, strengths: Strengths) -> Any:
        """With the adapters at their strengths; 0 is none."""
        used = {n: s for n, s in zip(("first", "second"), strengths, strict=True) if s}
        with self._scaled(used) if used else self._model.disable_adapter():
            return self._model(torch.tensor([ids]), past_key_values=cache, use_cache=True)

    @contextmanager
    def _scaled(self, used: dict[str, float]) -> Iterator[None]:
        """PEFT adds up what several active adapters change."""
        if self._active != [*used]:
            self._active = [*used]
            self._model.base_model.set_adapter(self._active)
        scalings = [m.scaling for m in self._model.modules() if hasattr(m, "scaling")]
        scalings = [scaling for scaling in scalings if isinstance(scaling, dict)]
        trained = [dict(scaling) for scaling in scalings]
        for scaling in scalings:
            scaling.update({n: used.get(n, 0.0) * value for n, value in scaling.items()})
        try:
            yield
        finally:
            for scaling, as_trained in zip(scalings, trained, strict=True):
                scaling.update(as_trained)


class _Writing:
    """An answer while it grows: what expert and base say after the tokens fed last.

    Attributes:
        choices: the token to come after each of those, after the prompt alone at first.
    """

    def __init__(self, reference: Reference, ids: tuple[int, ...], decoding: Decoding) -> None:
        self._reference, self._decoding = reference, decoding
        expert = ids, (decoding.lora_scale, decoding.second_scale)
        amateur = (
            decoding.amateur_ids or ids,
            (
                decoding.amateur_scale,
                decoding.amateur_second_scale,
            ),
        )
        read = {"base": [(ids, (0.0, 0.0))], "greedy": [expert]}.get(
            decoding.name, [expert, amateur]
        )
        after = [reference._after(*one) for one in read]
        self._caches = [
            (cache, strength) for (_, cache), (_, strength) in zip(after, read, strict=True)
        ]
        self.choices = self._choose([logits for logits, _ in after])

    def feed(self, tokens: Sequence[int]) -> None:
        """Goes on by some tokens."""
        forward = self._reference._forward
        self.choices = self._choose(
            [forward(tokens, cache, strength).logits[0] for cache, strength in self._caches]
        )

    def _choose(self, logits: list[torch.Tensor]) -> list[int]:
        """From logits [n, vocab]: the expert's, the base's, or the expert's and the amateur's."""
        if len(logits) == 2:
            decoding = self._decoding
            expert, base = logits
            beta = strength_of(decoding, expert, base)
            scores = (1 + beta) * expert - beta * base
            cutoff = math.log(decoding.alpha) + expert.max(1, keepdim=True).values
            scores = scores.masked_fill(expert < cutoff, -math.inf)
        else:
            (scores,) = logits
        choices: list[int] = scores.argmax(1).tolist()
        return choices


class _Contrast(LogitsProcessor):
    """In place of the expert's log-probabilities, those of the contrast over the valid set."""

    def __init__(self, model: Any, decoding: Decoding, prompt_length: int) -> None:
        self._model, self._decoding, self._prompt_length = model, decoding, prompt_length

    def __call__(self, ids: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
        with self._model.disable_adapter():
            base = self._model(ids).logits[:, -1].log_softmax(1)
        scores = log_probs + self._decoding.beta * (log_probs - base)
        best = log_probs.max(dim=1, keepdim=True).values
        scores[log_probs < best + math.log(self._decoding.alpha)] = -math.inf
        scores = scores.log_softmax(1)
        if ids.shape[1] == self._prompt_length:
            # All beams are still the same; transformers tells them apart by a very low score only,
            # which is not enough where the first has few valid tokens.
            scores[1:] = -math.inf
        return scores
