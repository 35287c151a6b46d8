"""Text: normalisation, and tokenizers that turn it into CTC labels and back."""

from asr_emapl.text.tokenizer import (
    LetterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_state,
)

__all__ = [
    "LetterTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "save_tokenizer",
    "tokenizer_from_state",
]
