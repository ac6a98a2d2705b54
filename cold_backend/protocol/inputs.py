"""The inputs of `cold`."""

from __future__ import annotations

import math

from cold_backend.contract import MAX_ADAPTERS, STRONGEST
from cold_backend.protocol.tensors import Input

MAX_BIASES = 1024  # tokens
STRONGEST_BIAS = 100
MAX_ALTERNATIVES = 20  # as OpenAI
MAX_WORDS = 64  # stop words and bad words, each
_WEAKEST = 1 / STRONGEST


def _named(*inputs: Input) -> dict[str, Input]:
    return {one.name: one for one in inputs}


INPUTS = _named(
    Input("text_input", "STRING", "the prompt as it is", allowed_note="not empty"),
    Input(
        "messages",
        "STRING",
        "a chat, put through the tokenizer's chat template",
        allowed_note='JSON list of `{"role", "content"}`, no other keys',
    ),
    Input(
        "input_ids",
        "INT64",
        "the prompt as token ids",
        many=True,
        allowed_note="ids of the vocabulary",
    ),
    Input(
        "continuation",
        "STRING",
        "[the answer](#a-given-answer), whose probability is wanted",
        allowed_note="1 token to what the context leaves",
    ),
    Input(
        "lora_name",
        "STRING",
        "adapter of the expert",
        default_note="the server's default adapter, also if empty",
        allowed_note="an adapter's name, or a directory's in `adapters_dir`",
    ),
    Input(
        "decoding",
        "STRING",
        "contrast; expert alone; base alone; [beam search](#beam-search) by expert or contrast",
        default="cold",
        choices=("cold", "greedy", "base", "beam", "cold_beam"),
    ),
    Input(
        "alpha",
        "FP32",
        "a token is valid if its expert probability is at least alpha times the highest",
        default=0.1,
        low=0,
        high=1,
        open_low=True,
    ),
    Input("beta", "FP32", "strength of the contrast", default=0.5, low=0, high=STRONGEST),
    Input(
        "beta_rule",
        "STRING",
        "beta as it is, or [times how far expert and amateur are apart](#how-a-token-is-picked)",
        default="fixed",
        choices=("fixed", "divergence"),
    ),
    Input(
        "lora_scale",
        "FP32",
        "strength of the adapter, by which PEFT's `scaling` is multiplied; 0 is the base",
        default=1,
        low=0,
        high=8,
    ),
    Input(
        "lora_names",
        "STRING",
        "[several adapters of the expert at once](#several-adapters); not with `lora_name`",
        many=True,
        allowed_note=f"1 to {MAX_ADAPTERS}, none twice",
    ),
    Input(
        "lora_scales",
        "FP32",
        "the strength of each of `lora_names`",
        many=True,
        default_note="1 each",
        low=0,
        high=8,
    ),
    Input(
        "amateur_text_input",
        "STRING",
        "a prompt of [the amateur's own](#amateurs)",
        allowed_note="not empty",
    ),
    Input("amateur_messages", "STRING", "likewise, a chat", allowed_note="as `messages`"),
    Input(
        "amateur_input_ids",
        "INT64",
        "likewise, token ids",
        many=True,
        allowed_note="ids of the vocabulary",
    ),
    Input(
        "amateur_last_tokens",
        "INT32",
        "the amateur sees so many of the prompt's last tokens",
        default_note="all",
        low=1,
    ),
    Input(
        "amateur_lora_name",
        "STRING",
        "adapter of the amateur; empty: none",
        default_note="the expert's, if the amateur has a prompt of its own; else none",
        allowed_note="as `lora_name`, or empty",
    ),
    Input(
        "amateur_lora_scale",
        "FP32",
        "its strength",
        default_note="the expert's, with the expert's adapter; else 1",
        low=0,
        high=8,
    ),
    Input(
        "cache_salt",
        "STRING",
        "only requests with the same one [share a prompt's beginning](#prefix-reuse)",
        default="",
        allowed_note="up to 64 bytes",
    ),
    Input(
        "beam_width",
        "INT32",
        "beams; each counts as a running request",
        default=4,
        default_note="or `max_sequences` if that is less",
        low=2,
        high=32,
        high_note="`max_sequences`",
    ),
    Input(
        "length_penalty",
        "FP32",
        "above 0 prefers long answers, below 0 short ones",
        default=1,
        low=-10,
        high=10,
    ),
    Input(
        "early_stopping",
        "STRING",
        "when a beam search stops",
        default="false",
        choices=("true", "false", "never"),
    ),
    Input(
        "temperature",
        "FP32",
        "0 takes the best token, above 0 samples",
        default=0,
        low=_WEAKEST,
        high=STRONGEST,
        or_zero=True,
        shapes=True,
    ),
    Input("top_k", "INT32", "0 is off", default=0, low=0, shapes=True),
    Input("top_p", "FP32", "1 is off", default=1, low=0, high=1, open_low=True, shapes=True),
    Input("min_p", "FP32", "0 is off", default=0, low=0, high=1, shapes=True),
    Input(
        "repetition_penalty",
        "FP32",
        "over prompt and output",
        default=1,
        low=_WEAKEST,
        high=STRONGEST,
        shapes=True,
    ),
    Input("presence_penalty", "FP32", "over the output", default=0, low=-2, high=2, shapes=True),
    Input("frequency_penalty", "FP32", "over the output", default=0, low=-2, high=2, shapes=True),
    Input(
        "logit_bias",
        "STRING",
        "what is added to the logits of tokens, [before all else](#how-a-token-is-picked)",
        default="",
        allowed_note=f"JSON object of up to {MAX_BIASES} token ids, and numbers in "
        f"[-{STRONGEST_BIAS}, {STRONGEST_BIAS}]",
        shapes=True,
    ),
    Input("seed", "UINT64", "same seed and request, same tokens", default_note="random"),
    Input(
        "max_tokens",
        "INT32",
        default=256,
        default_note="or what the context leaves",
        low=1,
        high_note="what the context leaves",
    ),
    Input(
        "min_tokens",
        "INT32",
        "no end of sequence before",
        default=0,
        low=0,
        high_note="`max_tokens`",
    ),
    Input(
        "stop_words",
        "STRING",
        "matched on the text; not part of the output",
        many=True,
        allowed_note=f"up to {MAX_WORDS}, none empty",
    ),
    Input(
        "bad_words",
        "STRING",
        "never generated",
        many=True,
        allowed_note=f"up to {MAX_WORDS}, none empty",
    ),
    Input("ignore_eos", "BOOL", default=False),
    Input(
        "stream",
        "BOOL",
        "true: a response per piece of text; false: exactly one",
        default=False,
    ),
    Input(
        "deadline_s",
        "FP32",
        "seconds from the request's arrival to the end of the answer; later it is an error",
        default=math.inf,
        default_note="none",
        low=0,
        open_low=True,
    ),
    Input(
        "priority",
        "INT32",
        "0 is served first; every 10 s of waiting count as one step up",
        default=1,
        low=0,
        high=2,
    ),
    Input(
        "exclude_input_in_output",
        "BOOL",
        "false: the prompt's text comes before the output",
        default=True,
    ),
    Input("return_log_probs", "BOOL", default=False),
    Input(
        "top_logprobs",
        "INT32",
        "how many of the most probable tokens are told with each, by the expert itself (the base "
        "with `decoding` base); not with beams",
        default=0,
        low=0,
        high=MAX_ALTERNATIVES,
    ),
    Input("return_finish_reason", "BOOL", default=False),
    Input("return_num_input_tokens", "BOOL", default=False),
    Input("return_num_output_tokens", "BOOL", default=False),
    Input("return_num_cached_tokens", "BOOL", default=False),
    Input("return_contrast", "BOOL", default=False, allowed_note="not with `decoding` base"),
)
