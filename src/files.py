"""Files that are whole or absent: atomic writing, digests."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, with or without a byte order mark, with any line endings.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not JSON, or nests absurdly; the sentence names the file and the place.
    """
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{path} is encoded in UTF-16: save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: byte {error.start} is not UTF-8, save it as UTF-8") from error
    del data  # of a large file, beside its text and what is made of it
    try:
        return json.loads(text, parse_float=finite, parse_constant=refuse_constant, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path} is not valid JSON: {error.msg} at {where}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is not a file of this project: its lists nest too deeply") from error
    except ValueError as error:  # a number of thousands of digits, or what the functions below refuse
        raise ValueError(f"{path} is not valid JSON: {str(error).partition(';')[0]}") from error


def finite(text: str) -> float:
    """A float that is not out of range."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


def refuse_constant(text: str) -> Any:
    """NaN and Infinity are not JSON."""
    raise ValueError(f"{text} is not a number in JSON")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object from pairs whose keys differ: all values but one of a repeated key would be lost."""
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    counts = Counter(key for key, _ in pairs)
    key = next(key for key, _ in pairs if counts[key] > 1)
    values = " and ".join(f"{value!r:.60}" for name, value in pairs if name == key)
    raise ValueError(f"the key {key!r:.200} appears twice in an object, with {values}")


@contextmanager
def write_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` when the block ends; a full disk or a kill leaves the old one.

    Raises:
        OSError: the file cannot be written; what was there is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: a rename, not a copy. Its name stays short, as `path`'s may have as many bytes as a name can.
    temporary = path.with_name(f".{hashlib.sha256(path.name.encode()).hexdigest()[:16]}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"could not write {path} ({error.strerror}); what was there is unchanged") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with write_whole(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON in one step, one line for each top-level entry of a list or object."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def digest_of(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
