"""The outputs of `cold` as arrays. See docs/protocol.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cold_backend.requests.answer import Piece
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.token import Token
from cold_backend.text.tokenizer import Tokenizer
from cold_kernels import Mode

Arrays = dict[str, npt.NDArray[Any]]


def outputs_of(piece: Piece, request: GenerationRequest, tokenizer: Tokenizer) -> Arrays:
    """The outputs of one response, without the batch dimension."""
    tokens = piece.tokens
    outputs: Arrays = {
        "text_output": np.array([piece.text], object),
        "token_ids": np.array([t.id for t in tokens], np.int64),
    }
    if request.return_finish_reason and piece.finish_reason:
        outputs["finish_reason"] = np.array([piece.finish_reason.value], object)
    if request.return_num_input_tokens:
        outputs["num_input_tokens"] = np.array([len(request.prompt)], np.int32)
    if request.return_num_output_tokens:
        outputs["num_output_tokens"] = np.array([len(tokens)], np.int32)
    if request.return_num_cached_tokens:
        outputs["num_cached_tokens"] = np.array([piece.cached_tokens], np.int32)
    if request.return_log_probs:
        of_base = request.sampling.mode is Mode.BASE
        outputs["output_log_probs"] = np.array(
            [t.base_log_prob if of_base else t.expert_log_prob for t in tokens], np.float32
        )
    if request.return_log_probs and request.continuation:
        outputs["decoding_log_probs"] = np.array([t.decoding_log_prob for t in tokens], np.float32)
    if request.top_logprobs:
        beside = [one for token in tokens for one in token.alternatives]
        outputs["top_token_ids"] = np.array([one.id for one in beside], np.int64)
        outputs["top_log_probs"] = np.array([one.log_prob for one in beside], np.float32)
    if request.return_contrast:
        outputs |= _contrast(tokens, tokenizer)
    return outputs


def _contrast(tokens: tuple[Token, ...], tokenizer: Tokenizer) -> Arrays:
    changed = [token.id != token.expert_token for token in tokens]
    texts = [
        "" if (best := token.expert_token) in (None, token.id) else tokenizer.decode([best])
        for token in tokens
    ]
    return {
        "contrast_expert_log_probs": np.array([t.expert_log_prob for t in tokens], np.float32),
        "contrast_base_log_probs": np.array([t.base_log_prob for t in tokens], np.float32),
        "contrast_valid_counts": np.array([t.valid_count for t in tokens], np.int32),
        "contrast_changed": np.array(changed, np.bool_),
        "contrast_expert_texts": np.array(texts, object),
    }
