"""Text: normalisation, and tokenizers that turn it into CTC labels and back."""

from asr_emapl.text.tokenizer import (
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_state,
)

__all__ = [
    "CharacterTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "save_tokenizer",
    "tokenizer_from_state",
]
