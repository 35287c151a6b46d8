"""Tokenizers: blank at 0, round trips, errors that name the letters, states that survive every carrier."""

from __future__ import annotations

import io
import json
import pickle
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.errors import UserError
from asr_emapl.text import (
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_state,
)
from asr_emapl.text.normalise import ALPHABET

TEXTS = [
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "PACK MY BOX WITH FIVE DOZEN LIQUOR JUGS",
    "IT'S A FINE DAY TO RUN AFTER THE CAT",
    "SHE SELLS SEA SHELLS BY THE SEA SHORE",
]
LETTERS = CharacterTokenizer()
PIECES = SentencePieceTokenizer.train(TEXTS, 40)
BOTH = pytest.mark.parametrize("tokenizer", [LETTERS, PIECES], ids=["letters", "pieces"])
NORMALISED = st.lists(st.text(string.ascii_uppercase + "'", min_size=1, max_size=9), max_size=8).map(" ".join)


@BOTH
def test_labels_of_spaces_alone_have_no_word(tokenizer):
    space = tokenizer.surfaces.index(" ")
    assert tokenizer.has_word(tokenizer.encode("A CAT"))
    assert not tokenizer.has_word([])
    assert not tokenizer.has_word([0, space, space])
    assert tokenizer.decode([space, space]) == ""


@BOTH
@settings(deadline=None)
@given(text=NORMALISED)
def test_decode_undoes_encode_on_normalised_text(tokenizer: Tokenizer, text: str) -> None:
    labels = tokenizer.encode(text)
    assert all(0 < label < tokenizer.vocabulary_size for label in labels)
    assert tokenizer.decode(labels) == text


@BOTH
@settings(deadline=None)
@given(data=st.data())
def test_decode_takes_any_labels_and_never_writes_blank_or_unknown(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary_size - 1), max_size=30))
    text = tokenizer.decode(ids)
    assert set(text) <= set(ALPHABET)
    assert text == " ".join(text.split())
    assert text == tokenizer.decode([label for label in ids if label != tokenizer.blank])


@BOTH
def test_spaces_are_collapsed(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("  THE   CAT ")) == "THE CAT"
    assert tokenizer.encode("") == tokenizer.encode("  ") == []


@BOTH
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("CAFÉ", "'É'"),
        ("the CAT", "'e', 'h', 't'"),
        ("A\tB", r"'\t'"),
        ("A\u2581B", "'\u2581'"),
        ("R2-D2", "'-', '2'"),
    ],
)
def test_letters_outside_the_alphabet_are_named(tokenizer: Tokenizer, text: str, named: str) -> None:
    with pytest.raises(UserError) as error:
        tokenizer.encode(text)
    assert f"alphabet: {named} in" in str(error.value)


@BOTH
@pytest.mark.parametrize("label", [-1, 1000])
def test_labels_of_another_tokenizer_are_an_error(tokenizer: Tokenizer, label: int) -> None:
    with pytest.raises(UserError, match=f"label {label} is outside"):
        tokenizer.decode([1, label])


def test_letter_labels_are_the_alphabet_in_order() -> None:
    assert LETTERS.vocabulary_size == 29
    assert LETTERS.blank == 0
    assert LETTERS.encode("A B'") == [3, 1, 4, 2]
    assert CharacterTokenizer("BA").encode("AB") == [2, 1]


@pytest.mark.parametrize(
    ("alphabet", "what"),
    [
        ("", "empty"),
        ("ABCA", "'A' more than once"),
        ("A\n", "separate words by"),
        ("A\x1b", "cannot be written"),
        ("A\ud800", "cannot be written"),
        ("AB" * 1_000_000, "'A', 'B' more than once"),
    ],
    ids=["empty", "repeated", "newline", "control", "surrogate", "long"],
)
def test_unusable_alphabets(alphabet: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        CharacterTokenizer(alphabet)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_training_gives_the_size_asked_for_and_repeats_itself(model_type: str) -> None:
    first = SentencePieceTokenizer.train(iter(TEXTS), 45, model_type)
    assert first.vocabulary_size == 45
    assert first == SentencePieceTokenizer.train(TEXTS, 45, model_type)
    assert first != PIECES


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_the_sizes_that_the_errors_name_work(model_type: str) -> None:
    for impossible in (5, 5000):
        with pytest.raises(UserError, match=f"{impossible} is too") as error:
            SentencePieceTokenizer.train(TEXTS, impossible, model_type)
        allowed = int(str(error.value).split("at ")[1].split()[1])
        assert SentencePieceTokenizer.train(TEXTS, allowed, model_type).vocabulary_size == allowed
        beyond = allowed - 1 if impossible == 5 else allowed + 1
        with pytest.raises(UserError, match="is too"):
            SentencePieceTokenizer.train(TEXTS, beyond, model_type)


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_training_needs_text(texts: list[str]) -> None:
    with pytest.raises(UserError, match="no text to train"):
        SentencePieceTokenizer.train(texts, 40)


def test_training_refuses_other_models_and_tiny_sizes() -> None:
    with pytest.raises(UserError, match="'unigram', 'bpe'"):
        SentencePieceTokenizer.train(TEXTS, 40, "word")
    with pytest.raises(UserError, match="too small"):
        SentencePieceTokenizer.train(TEXTS, 2)


def test_what_the_texts_raise_comes_through() -> None:
    def broken_manifest() -> Iterator[str]:
        yield TEXTS[0]
        raise UserError("line 2")

    with pytest.raises(UserError, match=r"^line 2$"):
        SentencePieceTokenizer.train(broken_manifest(), 30)


def test_long_transcripts_take_part_in_training() -> None:
    # SentencePiece's own default leaves out what is longer than 4,192 bytes.
    tokenizer = SentencePieceTokenizer.train([*TEXTS, "Ä " * 4000], 41)
    assert tokenizer.decode(tokenizer.encode("Ä")) == "Ä"


@BOTH
def test_state_survives_json_torch_and_pickle(tokenizer: Tokenizer) -> None:
    buffer = io.BytesIO()
    torch.save({"tokenizer": tokenizer.state_dict()}, buffer)
    buffer.seek(0)
    from_torch = tokenizer_from_state(torch.load(buffer, weights_only=True)["tokenizer"])
    from_json = tokenizer_from_state(json.loads(json.dumps(tokenizer.state_dict())))
    from_pickle = pickle.loads(pickle.dumps(tokenizer))  # data loader workers
    for copy in (from_torch, from_json, from_pickle):
        assert type(copy) is type(tokenizer)
        assert copy == tokenizer
        assert hash(copy) == hash(tokenizer)
        assert copy.encode(TEXTS[2]) == tokenizer.encode(TEXTS[2])


def test_fingerprint_is_that_of_the_content() -> None:
    assert len(LETTERS.fingerprint) == 64
    assert LETTERS.fingerprint == CharacterTokenizer(ALPHABET).fingerprint
    assert len({LETTERS.fingerprint, PIECES.fingerprint, CharacterTokenizer(ALPHABET[::-1]).fingerprint}) == 3
    assert LETTERS != ALPHABET
    assert LETTERS.fingerprint[:12] in repr(LETTERS)


@BOTH
def test_file_round_trip_leaves_no_temporary_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "new" / "tokenizer.json"
    save_tokenizer(path, CharacterTokenizer("AB"))
    save_tokenizer(path, tokenizer)
    assert load_tokenizer(path) == tokenizer
    assert [entry.name for entry in path.parent.iterdir()] == ["tokenizer.json"]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        save_tokenizer(tmp_path / "tokenizer.json", LETTERS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "not a JSON object"),
        (b'{"kind": "words"}', "unknown kind 'words'"),
        (b'{"kind": "characters"}', "no text entry 'alphabet'"),
        (b'{"kind": "characters", "alphabet": "AB", "fingerprint": "00"}', "damaged, or edited"),
        (b'{"kind": "sentencepiece", "model": 3}', "no text entry 'model'"),
        (b'{"kind": "sentencepiece", "model": "?"}', "base64"),
        (b'{"kind": "sentencepiece", "model": ""}', "not a SentencePiece model"),
        (b'{"kind": "sentencepiece", "model": "Z2FyYmFnZQ=="}', "not a SentencePiece model"),
    ],
)
def test_broken_files_are_errors_that_name_the_file(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=what) as error:
        load_tokenizer(path)
    assert str(error.value).startswith(f"{path}:")


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(tmp_path / "none.json")


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_models_are_refused_or_work(data: st.DataObject) -> None:
    """A checkpoint's: SentencePiece takes pieces that are not UTF-8, and stumbles over them later."""
    model = bytearray(PIECES.model)
    for place in data.draw(st.lists(st.integers(0, len(model) - 1), max_size=5)):
        model[place] = data.draw(st.integers(0, 255))
    try:
        damaged = SentencePieceTokenizer(bytes(model[: data.draw(st.integers(0, len(model)))]))
    except UserError:
        return
    assert len(damaged.surfaces) == damaged.vocabulary_size
    damaged.decode(range(damaged.vocabulary_size))


def test_a_piece_that_is_no_text_is_refused() -> None:
    piece = next(piece for piece in PIECES.surfaces if len(piece) > 1).strip().encode()
    assert PIECES.model.count(piece) > 0
    with pytest.raises(UserError, match="not a SentencePiece model"):
        SentencePieceTokenizer(PIECES.model.replace(piece, b"\xff" * len(piece)))


def test_characters_are_those_of_the_texts_where_librispeech_lacks_them():
    assert CharacterTokenizer.of(["GO ON", "DON'T"]) == CharacterTokenizer()
    assert CharacterTokenizer.of(["GRÜẞE", "ÄÖ"]).alphabet == " EGRÄÖÜẞ"
