"""Small tokenizers of every kind of decoder, as model directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SPECIAL = ["<unk>", "<s>", "</s>"]
_PIECES = ["a", "b", "▁", "▁a", "▁the", "▁▁", "é", "🦜", ".", "▁b.", "the", "\ufffd"]


def _sentencepiece(decoder: Any) -> Tokenizer:
    """As Llama 2's: pieces, and a token for each byte that no piece has."""
    vocab = {token: i for i, token in enumerate([*_SPECIAL, *BYTES, *_PIECES])}
    model = models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoder
    return tokenizer


def _llama() -> Tokenizer:
    strip = decoders.Strip(content=" ", left=1)
    return _sentencepiece(
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
        )
    )


def _gemma() -> Tokenizer:
    return _sentencepiece(
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    )


def _metaspace() -> Tokenizer:
    return _sentencepiece(decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]))


def _metaspace_first() -> Tokenizer:
    return _sentencepiece(
        decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback(), decoders.Fuse()])
    )


def _unigram() -> Tokenizer:
    pieces = [(token, -float(i)) for i, token in enumerate([*_SPECIAL, *_PIECES])]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _byte_level() -> Tokenizer:
    tokens = [*_SPECIAL, *sorted(ByteLevel.alphabet()), "ðŁ", "¦ľ", "Ġa", "âĸ", "éa", "ab"]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _word_piece() -> Tokenizer:
    tokens = ["[UNK]", "the", "bird", "##s", "##ing", ".", ",", "don", "'", "t", "##'", "é", "##"]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _suffixed() -> Tokenizer:
    tokens = [*_SPECIAL, "a", "b", "a</w>", "b</w>", "é</w>", "</w>", "ab"]
    vocab = {t: i for i, t in enumerate(tokens)}
    model = models.BPE(vocab, [], unk_token="<unk>", end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    tokenizer.decoder = decoders.BPEDecoder()
    return tokenizer


def _words() -> Tokenizer:
    """Without a decoder: words with spaces between them."""
    vocab = {t: i for i, t in enumerate([*_SPECIAL, "a", "b", "the"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


KINDS = {
    "llama": _llama,
    "gemma": _gemma,
    "metaspace": _metaspace,
    "metaspace first": _metaspace_first,
    "unigram": _unigram,
    "byte level": _byte_level,
    "word piece": _word_piece,
    "suffixed": _suffixed,
    "words": _words,
}


def make_tokenizer(kind: str, path: Path, **config: Any) -> Path:
    """Writes a tokenizer of a kind; special tokens and one that is not are added."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens([t for t in _SPECIAL if tokenizer.token_to_id(t) is not None])
    tokenizer.add_special_tokens(["<|special|>"])
    tokenizer.add_tokens([AddedToken("<|plain|>", normalized=False)])
    tokenizer.save(str(path / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast"} | config
    (path / "tokenizer_config.json").write_text(json.dumps(values))
    return path
