"""Turns the inputs of `cold` into requests: read, checked, tokenised. See docs/protocol.md."""

from __future__ import annotations

from dataclasses import replace

from cold_backend.adapters.defaults import NO_DEFAULTS, AdapterDefaults, AmateurRule
from cold_backend.config import Settings
from cold_backend.errors import InvalidRequestError
from cold_backend.protocol.inputs import INPUTS
from cold_backend.requests.amateur import (
    inputs_by_rule,
    read_amateur,
    read_amateur_prompt,
    stands_alone,
    uses_rule,
)
from cold_backend.requests.beam_fields import read_beam
from cold_backend.requests.fields import (
    PLAIN,
    Inputs,
    check_off,
    read_biases,
    read_flag,
    read_integer,
    read_name,
    read_number,
    read_text,
    read_words,
)
from cold_backend.requests.mixture import NAMES, Mixture, read_mixture
from cold_backend.requests.parts import unmarked, without
from cold_backend.requests.prompt import PROMPTS, read_prompt
from cold_backend.requests.request import Draft, GenerationRequest
from cold_backend.requests.sampling import read_decoding, read_sampling
from cold_backend.text.tokenizer import Tokenizer
from cold_kernels import Mode

_STAND_IN = (0,)  # for tokens that are not known yet: there will be one at least
_OF_A_FREE_ANSWER = ("max_tokens", "min_tokens", "stop_words", "bad_words")


class RequestParser:
    """Turns the inputs of `cold` into requests.

    Args:
        settings: which adapter is the default, and how long a sequence may be.
        tokenizer: the base model's.
    """

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        self._settings = settings
        self._tokenizer = tokenizer

    def parse(self, inputs: Inputs, defaults: AdapterDefaults = NO_DEFAULTS) -> GenerationRequest:
        """Reads, checks and tokenises one request.

        Args:
            inputs: arrays by input name, of the protocol's types.
            defaults: of its adapter.

        Raises:
            InvalidRequestError: a field is missing, malformed or out of range.
        """
        return self.complete(self.check(inputs), defaults)

    def check(self, inputs: Inputs) -> Draft:
        """Reads one request and checks all that can be checked at once.

        Takes time for what the request's bytes are limited to at most; reads no file.

        Args:
            inputs: arrays by input name, of the protocol's types. They are not referred to any more
                afterwards.

        Raises:
            InvalidRequestError: a field is missing, malformed or out of range.
        """
        prompt = read_prompt(inputs, self._settings, self._tokenizer.vocab_size)
        amateur_prompt = read_amateur_prompt(inputs, self._settings, self._tokenizer.vocab_size)
        continuation = self._continuation(inputs)
        # Numbers are views of memory that belongs to the request.
        others = {
            name: value if value.dtype == object else value.copy()
            for name, value in inputs.items()
            if name not in PROMPTS
        }
        request = self._request(
            others,
            NO_DEFAULTS,
            prompt.ids or _STAND_IN,
            (amateur_prompt.ids or _STAND_IN) if amateur_prompt else (),
            _STAND_IN if continuation else (),
        )
        names = tuple(name for name, _ in read_mixture(others) or request.adapters)
        if request.sampling.mode is Mode.BASE and not names:
            # Whose rule may say what of the prompt is to be read.
            name = read_name(inputs, "lora_name") or self._settings.default_adapter
            names = (name,) if name else ()
        return Draft(
            lora_names=names,
            prompt=prompt,
            amateur_prompt=amateur_prompt,
            continuation=continuation,
            inputs=others,
            request=request,
        )

    def complete(self, draft: Draft, defaults: AdapterDefaults) -> GenerationRequest:
        """Tokenises a request.

        Args:
            draft: of the request.
            defaults: of its adapter.

        Raises:
            InvalidRequestError: it has too many tokens, or none.
        """
        tokenizer, limit = self._tokenizer, self._settings.max_context
        rule, inputs = defaults.amateur or AmateurRule(), draft.inputs
        of_expert = unmarked(draft.prompt, rule.without)
        of_amateur = draft.amateur_prompt and unmarked(draft.amateur_prompt, rule.without)
        if uses_rule(inputs, defaults):
            of_amateur = without(draft.prompt, rule.without) if rule.without else None
            inputs = {**inputs, **inputs_by_rule(rule, draft.lora_names[0])}
        prompt = of_expert.tokens(tokenizer, limit - 1)
        amateur_prompt = of_amateur.tokens(tokenizer, limit - 1) if of_amateur else ()
        room = limit - max(len(prompt), len(amateur_prompt))
        continuation = tuple(
            tokenizer.encode_bare(draft.continuation, "continuation") if draft.continuation else ()
        )
        if draft.continuation and not 0 < len(continuation) <= room:
            raise InvalidRequestError(
                "continuation", f"must have 1 to {room} tokens, got {len(continuation)}"
            )
        request = self._request(inputs, defaults, prompt, amateur_prompt, continuation)
        bad_words = read_words(inputs, "bad_words")
        excluded = read_flag(inputs, "exclude_input_in_output")
        return replace(
            request,
            bad_words=tuple(ids for word in bad_words for ids in self._spellings(word)),
            echo="" if excluded else of_expert.text or tokenizer.decode(prompt),
        )

    def _request(
        self,
        inputs: Inputs,
        defaults: AdapterDefaults,
        prompt: tuple[int, ...],
        amateur_prompt: tuple[int, ...],
        continuation: tuple[int, ...],
    ) -> GenerationRequest:
        """The request, without what other text has to be tokenised for."""
        decoding = read_decoding(inputs, defaults)
        sampling = read_sampling(inputs, decoding, defaults)
        room = self._settings.max_context - max(len(prompt), len(amateur_prompt))
        default = len(continuation) or min(INPUTS["max_tokens"].default, room)
        max_tokens = read_integer(inputs, "max_tokens", default, high=room)
        beam = read_beam(inputs, decoding, self._settings.max_sequences)
        if beam and continuation:
            raise InvalidRequestError("continuation", f"not with decoding {decoding}")
        top_logprobs = read_integer(inputs, "top_logprobs")
        if beam and top_logprobs:
            raise InvalidRequestError("top_logprobs", f"not with decoding {decoding}")
        return_contrast = read_flag(inputs, "return_contrast")
        if return_contrast and sampling.mode is Mode.BASE:
            raise InvalidRequestError("return_contrast", "not available with decoding base")
        read_words(inputs, "bad_words")
        adapters = self._adapters(inputs, sampling.mode, defaults)
        return GenerationRequest(
            prompt=prompt,
            adapters=adapters,
            mixes=NAMES in inputs,
            amateur=read_amateur(
                inputs,
                mode=sampling.mode,
                expert=adapters,
                prompt=prompt,
                own_prompt=amateur_prompt,
            ),
            cache_salt=read_name(inputs, "cache_salt"),
            decoding=decoding,
            sampling=sampling,
            logit_bias=read_biases(inputs, "logit_bias", self._tokenizer.vocab_size),
            beam=beam,
            continuation=continuation,
            max_tokens=max_tokens,
            min_tokens=read_integer(inputs, "min_tokens", high=max_tokens),
            stop_words=read_words(inputs, "stop_words"),
            bad_words=(),
            ignore_eos=read_flag(inputs, "ignore_eos") or bool(continuation),
            stream=read_flag(inputs, "stream"),
            echo="",
            priority=read_integer(inputs, "priority"),
            deadline_s=read_number(inputs, "deadline_s"),
            return_log_probs=read_flag(inputs, "return_log_probs"),
            top_logprobs=top_logprobs,
            return_finish_reason=read_flag(inputs, "return_finish_reason"),
            return_num_input_tokens=read_flag(inputs, "return_num_input_tokens"),
            return_num_output_tokens=read_flag(inputs, "return_num_output_tokens"),
            return_num_cached_tokens=read_flag(inputs, "return_num_cached_tokens"),
            return_contrast=return_contrast,
        )

    def _continuation(self, inputs: Inputs) -> str:
        name = "continuation"
        if name not in inputs:
            return ""
        check_off(inputs, PLAIN, f"not with {name}")
        for other in _OF_A_FREE_ANSWER:
            if other in inputs:
                raise InvalidRequestError(other, f"not with {name}")
        text = read_text(inputs, name, self._settings.prompt_bytes)
        if not text:
            most = self._settings.max_context - 1
            raise InvalidRequestError(name, f"must have 1 to {most} tokens, got 0")
        return text

    def _adapters(self, inputs: Inputs, mode: Mode, defaults: AdapterDefaults) -> Mixture:
        """The expert's; none with decoding base, or if expert and amateur differ all the same."""
        several, name = read_mixture(inputs), read_name(inputs, "lora_name")
        scale = read_number(inputs, "lora_scale", defaults.lora_scale)
        if mode is Mode.BASE:
            return ()
        if several:
            return several
        name = name or self._settings.default_adapter
        if not name and mode is Mode.COLD and stands_alone(inputs):
            return ()
        if not name and self._settings.adapters_dir:
            raise InvalidRequestError("lora_name", "is needed, the server has no default adapter")
        if not name:
            raise InvalidRequestError(
                "decoding",
                "must be base, or the amateur have a prompt of its own: the server has no adapter",
            )
        return ((name, scale),)

    def _spellings(self, word: str) -> list[tuple[int, ...]]:
        """A word's tokens at the start of a text and after a space."""
        spelled = (
            tuple(self._tokenizer.encode_bare(form, "bad_words")) for form in (word, " " + word)
        )
        return [ids for ids in dict.fromkeys(spelled) if ids]
