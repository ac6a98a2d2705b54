"""The outputs of `cold`."""

from __future__ import annotations

from cold_backend.protocol.tensors import Output

OUTPUTS = (
    Output(
        "text_output",
        "STRING",
        "always",
        "the text since the last response; whole characters only",
    ),
    Output(
        "token_ids",
        "INT64",
        "always",
        "the tokens since the last response, an end-of-sequence token included",
        many=True,
    ),
    Output(
        "finish_reason",
        "STRING",
        "asked for, last response",
        "`stop`, `length`, `cancelled`",
    ),
    Output("num_input_tokens", "INT32", "asked for", "tokens of the prompt"),
    Output("num_output_tokens", "INT32", "asked for", "tokens in this response"),
    Output(
        "num_cached_tokens",
        "INT32",
        "asked for",
        "tokens of the prompt that were [not computed again](#prefix-reuse)",
    ),
    Output(
        "output_log_probs",
        "FP32",
        "asked for",
        "log-probability of each token: the expert's (the base's with `decoding` base)",
        many=True,
    ),
    Output(
        "decoding_log_probs",
        "FP32",
        "`return_log_probs`, with `continuation`",
        "log-probability of each token under the decoding",
        many=True,
    ),
    Output(
        "top_token_ids",
        "INT64",
        "`top_logprobs`",
        "for each token, as many as were asked for, best first, one after another",
        many=True,
    ),
    Output("top_log_probs", "FP32", "`top_logprobs`", "their log-probabilities", many=True),
    Output(
        "contrast_expert_log_probs",
        "FP32",
        "`return_contrast`",
        "the expert's own log-probability of each token",
        many=True,
    ),
    Output("contrast_base_log_probs", "FP32", "`return_contrast`", "the base's own", many=True),
    Output(
        "contrast_valid_counts", "INT32", "`return_contrast`", "tokens in the valid set", many=True
    ),
    Output(
        "contrast_changed",
        "BOOL",
        "`return_contrast`",
        "whether the token differs from the expert's own best",
        many=True,
    ),
    Output(
        "contrast_expert_texts",
        "STRING",
        "`return_contrast`",
        "text of the expert's own best, where it differs",
        many=True,
    ),
)
