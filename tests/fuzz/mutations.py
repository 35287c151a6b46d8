"""Ways to break an input file or a command line, each drawn by a random generator."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

NUMBERS = (
    0,
    -1,
    1,
    2**31,
    2**62,
    2**63,
    10**30,
    10**400,
    0.0,
    -0.5,
    1e-300,
    1e300,
    float("inf"),
    float("nan"),
)
TEXTS = (
    *(
        "",
        " ",
        "\n",
        "\0",
        "\ud800",
        "\x1b[31m\x07",
        "a" * 100_000,
        "\u00e9\u4e2d\U0001f600",
        "[/x]",
        "=1+1",
        "{ a / b }",
    ),
    *(
        "../../x",
        "in",
        "in/long.wav",
        "/dev/zero",
        "${a}",
        "${oc.env:HOME}",
        "none",
        "auto",
        "1e5",
        "nan",
        "{",
        "x:y",
    ),
)
VALUES: tuple[Any, ...] = (None, True, [], {}, [[]], [None], {"a": {"b": []}}, [1, 2, 3], *NUMBERS, *TEXTS)
OPTION_VALUES = (
    *(
        "",
        " ",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1",
        "1e400",
        "1e300",
        "99999999999999999999",
        "0x10",
        "1_000",
        "x",
    ),
    *(
        "a" * 5000,
        "\u00e9",
        "\x1b[31m",
        "[/x]",
        "/dev/zero",
        "in",
        "in/gone",
        "in/long.wav/x",
        "in/fifo",
        "--",
        "-h",
    ),
    *(
        "cuda:0",
        "cuda:99999999999999999999",
        "none",
        "a=b",
        "nothing://x",
        "../x",
        "${a}",
        "null",
        "[",
        "{a: 1}",
    ),
)
# A place that is written to must not be an input: that is for other tests than those of reading.
OUTPUT_VALUES = (
    "",
    "out",
    "in/long.wav/x",
    "out/" + "a" * 300,
    "out/new/x.json",
    "out/x.\u00e9",
    "out/gone/",
)
# More of these is more to do, not a fault.
UNBOUNDED = ("hours", "--resamples", "--beam", "--size", "--workers")


def replaced_by_another_kind(path: Path, random: Random) -> str:
    """Put something else than a file in its place."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    kind = random.choice(("nothing", "a pipe", "a folder", "a device", "a loop", "a socket"))
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a loop":
        path.symlink_to(path.name)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as server:
            # Names of sockets are short.
            before = Path.cwd()
            os.chdir(path.parent)
            server.bind(path.name)
            os.chdir(before)
    return kind


def broken_bytes(path: Path, random: Random) -> str:
    """Change the bytes of a file."""
    name, change = random.choice(tuple(_BYTES.items()))
    path.write_bytes(change(path.read_bytes(), random))
    return name


def _flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 3, 30)) if changed else 0):
        # Headers stand in front.
        end = min(len(changed), random.choice((64, len(changed))))
        changed[random.randrange(end)] = random.choice((0, 0xFF, 0x7F, random.randrange(256)))
    return bytes(changed)


def _cut(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _chunk(content: bytes, random: Random) -> bytes:
    """Without a chunk, or with one twice."""
    start = random.randrange(len(content) + 1)
    end = start + random.randrange(100)
    return content[:start] + random.choice((b"", 2 * content[start:end])) + content[end:]


def _lines(content: bytes, random: Random) -> bytes:
    """Lines in another order, and one of them twice or not at all."""
    lines = content.splitlines(keepends=True) or [b""]
    random.shuffle(lines)
    return b"".join(random.choice((lines[1:], [*lines, lines[0]])))


def _insert(content: bytes, random: Random) -> bytes:
    start = random.randrange(len(content) + 1)
    return content[:start] + random.choice(_INSERTIONS) + content[start:]


_INSERTIONS = (
    *(
        b"\0",
        b"\xff\xfe",
        b"\n\n\n",
        b"\r\n",
        b"\t",
        b",",
        b"\xc3\xa9",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"{",
        b"[",
    ),
    *(
        b"\n" + b"[" * 100_000 + b"\n",
        b"1" * 10_000,
        b" " * 100_000,
        bytes(range(256)),
        b"\n;;\n",
        b"{ a / b }",
    ),
)
_BYTES: dict[str, Callable[[bytes, Random], bytes]] = {
    "cut off": _cut,
    "bytes changed": _flip,
    "a chunk": _chunk,
    "lines": _lines,
    "inserted": _insert,
    "empty": lambda content, random: b"",
    "noise": lambda content, random: random.randbytes(2000),
    "utf-16": lambda content, random: content.decode("latin-1").encode("utf-16"),
    "latin-1": lambda content, random: content.replace(b"A", b"\xc9"),
    "byte order mark, crlf": lambda content, random: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"),
    "packed": lambda content, random: random.choice((gzip.compress, lzma.compress))(content),
    "half packed": lambda content, random: _cut(gzip.compress(content), random),
    "blank lines, packed": lambda content, random: gzip.compress(b"\n" * 3_000_000, 1),
    "one long line, packed": lambda content, random: gzip.compress(b"x" * (64 << 20), 1),
    "nested": lambda content, random: random.choice((b"[", b'{"a":', b"{a: ")) * 100_000,
}


def broken_json(path: Path, random: Random) -> str:
    """Change a value somewhere in a line of JSON, or in a file that is one value."""
    packed = path.name.endswith(".gz")
    content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    whole = path.suffix == ".json" and content.count(b"\n{") == 0
    lines = [content] if whole else content.splitlines()
    which = random.randrange(len(lines))
    value = json.loads(lines[which])
    done = _change(value, random)
    if random.random() < 0.3:
        # Where all lines have it, no other line hides it.
        for i, line in enumerate(lines):
            lines[i] = _as_there(json.loads(line), value)
    lines[which] = json.dumps(value).encode()
    changed = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(changed) if packed else changed)
    return done


def _as_there(value: Any, example: Any) -> bytes:
    """The value with the example's entries, but for its id."""
    if isinstance(value, dict) and isinstance(example, dict):
        value = {**value, **example, **{key: value[key] for key in ("id",) if key in value}}
    return json.dumps(value).encode()


def broken_yaml(path: Path, random: Random) -> str:
    """Change a value somewhere in a config."""
    value = yaml.safe_load(path.read_text())
    done = _change(value, random, but=UNBOUNDED)
    if random.random() < 0.1:
        bomb = "".join(f"  a{i}: &a{i} [{', '.join(9 * [f'*a{i - 1}'])}]\n" for i in range(1, 12))
        path.write_text(f"model:\n a0: &a0 [x]\n{bomb}".replace("\n a0", "\n  a0"))
        return "aliases"
    # What YAML cannot spell, JSON can: its escapes are YAML's too.
    path.write_text(
        json.dumps(value) if random.random() < 0.5 else yaml.safe_dump(value, allow_unicode=False)
    )
    return done


def broken_checkpoint(path: Path, random: Random) -> str:
    """Change an entry somewhere in a checkpoint."""
    import torch

    state = torch.load(path, weights_only=True)
    done = _change(state, random, more=(torch.zeros(3), torch.full((2, 2), float("nan"))), but=("target",))
    content = io.BytesIO()
    torch.save(state, content)
    path.write_bytes(content.getvalue())
    return done


def _change(value: Any, random: Random, more: tuple[Any, ...] = (), but: tuple[str, ...] = ()) -> str:
    """Change something within a list or dict; returns what."""
    place, keys = value, []
    while True:
        inner = list(place) if isinstance(place, dict) else list(range(len(place)))
        inner = [key for key in inner if key not in but]
        if not inner:
            return "unchanged"
        key = random.choice(inner)
        keys.append(str(key))
        held = place[key]
        if isinstance(held, dict | list) and held and random.random() < 0.7:
            place = held
            continue
        if random.random() < 0.2:
            del place[key]
            return f"without {'.'.join(keys)}"
        place[key] = random.choice((*VALUES, *more))
        return f"{'.'.join(keys)} = {str(place[key])[:30]!r}"


def broken_arguments(arguments: list[str], random: Random) -> tuple[list[str], str]:
    """Change, leave out, repeat or add an argument."""
    changed = list(arguments)
    # Not the command's name, nor what follows it in `prepare`.
    at = random.randrange(2 if changed[0] == "prepare" else 1, len(changed))
    word, before = changed[at], changed[at - 1]
    kind = random.random()
    if before in ("--out", "--png", "--figures", "--alignments"):
        changed[at] = random.choice(OUTPUT_VALUES)
    elif kind < 0.1:
        del changed[at]
    elif kind < 0.2 and not word.startswith("out"):
        changed.insert(at, word)
    elif "=" in word:
        changed[at] = f"{word.partition('=')[0]}={random.choice(OPTION_VALUES)}"
    elif word in UNBOUNDED or before in UNBOUNDED:
        changed[at] = random.choice(("nan", "-1", "0", "x", ""))
    else:
        changed[at] = random.choice(OPTION_VALUES)
    # No name on a command line holds a NUL.
    return [word.replace("\0", "") for word in changed], f"argument {at}: {word}"


def broken_override(config: dict[str, Any], random: Random) -> str:
    """A key of a config with another value, as an override is written."""
    keys, place = [], config
    while isinstance(place, dict) and place:
        key = random.choice(
            [key for key in place if key not in (*UNBOUNDED, "run_dir", "target")] or list(place)
        )
        keys.append(key)
        place = place[key]
    value = random.choice(
        ("nan", ".nan", ".inf", "-.inf", "-1", "0", "1e300", str(2**62), str(10**30), *OPTION_VALUES)
    )
    return f"{'.'.join(keys)}={value}"
