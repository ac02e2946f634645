"""Digests of contents, remembered while the system sees no change of the files.

Reading a hundred gigabytes again to learn that nothing has changed takes minutes; asking the file system takes seconds.
A digest is used again only while a file's size, modification time, change time and inode are what they were. A program
may set the modification time back (cp -p, rsync, tar), but not the change time; the inode tells a file from one that
was renamed to its place. The device is left out: a network disk that is mounted again may have another number.

Where clocks are coarse (2 s on FAT, 1 s on old NFS) a file may be written again within one tick after it was read, and
look the same: what changed less than RACY seconds before it was read is not remembered, as in git's index.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from src.files import digest_of, read_json, write_json
from src.locks import locked
from src.progress import progress

RACY = 2_000_000_000  # nanoseconds
MOST = 10_000  # digests in a memo, of which the newest stay: a megabyte
THREADS = 8  # that read files: a network disk answers several at once
CHUNK = 256  # files that a thread reads at a time

DigestOf = Callable[[Path], str]
"""From a file to the sha256 of its content: files.digest_of, or Digests.of."""


class Facts(NamedTuple):
    """What the file system says of files without reading them.

    Attributes:
        digest: equal as long as no file was written, replaced, renamed, or given other permissions.
        newest: when the last of them changed, nanoseconds since 1970.
    """

    digest: str
    newest: int


def facts_of(root: Path, paths: Sequence[str]) -> Facts:
    """The facts of files `paths` below `root`; one that is gone, or cannot be looked up, contributes its path alone."""
    state, newest, top = hashlib.sha256(), 0, f"{root}{os.sep}"
    for path in progress(paths, f"looking at the files in {root}"):
        try:
            stat = os.stat(top + path)
        except OSError:
            state.update(f"{path}\0gone\n".encode())
            continue
        facts = (stat.st_size, stat.st_mode, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        state.update(f"{path}\0{facts}\n".encode())
        newest = max(newest, stat.st_mtime_ns, stat.st_ctime_ns)
    return Facts(state.hexdigest(), newest)


class Digests:
    """Digests of files and of sets of files, in a memo on disk.

    The memo only saves time: a damaged one, or one that cannot be written, means that everything is read again. Several
    processes may use it at once: it is replaced as a whole, and what one of them did not see is read again.

    Args:
        memo: a JSON file, {digest of the facts: digest of the contents}; None: remember nothing.
        verify: read everything again, whatever is remembered.
    """

    def __init__(self, memo: Path | None = None, verify: bool = False) -> None:
        self.memo, self.verify = memo, verify
        self.known = {} if verify else self.remembered()
        self.new: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """sha256 of a file's content, in hexadecimal.

        Raises:
            OSError: the file cannot be read.
        """
        begin = time.time_ns()
        facts = facts_of(path.parent, [path.name])
        key = f"{os.path.realpath(path)} {facts.digest}"
        if key not in self.known:
            return self.keep(key, digest_of(path), begin - facts.newest > RACY)
        return self.known[key]

    def of_files(self, root: Path, paths: Sequence[str]) -> str:
        """A digest of the paths and contents of files below `root`, wherever that is.

        One that is gone or cannot be read contributes its path alone.
        """
        begin = time.time_ns()
        facts = facts_of(root, paths)
        key = f"{len(paths)} files {facts.digest}"
        if key in self.known:
            return self.known[key]
        with nullcontext() if self.memo is None else locked(self.memo.parent):
            if not self.verify:  # another process may have read them while this one waited
                self.known |= self.remembered()
            if key in self.known:
                return self.known[key]
            state, whole = hashlib.sha256(), True
            chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
            with ThreadPoolExecutor(THREADS) as pool:  # reading and hashing leave the interpreter's lock
                read = pool.map(lambda chunk: contents(root, chunk), chunks)
                for words, complete in progress(read, f"reading the files in {root}, {CHUNK} at a time", len(chunks)):
                    state.update(words)
                    whole &= complete
            made = self.keep(key, state.hexdigest(), whole and begin - facts.newest > RACY)
            self.save()
        return made

    def keep(self, key: str, digest: str, remember: bool) -> str:
        """Remember a digest, or not, and return it."""
        if remember:
            self.known[key] = self.new[key] = digest
        return digest

    def remembered(self) -> dict[str, str]:
        """What the memo holds; {} where there is none or it is damaged."""
        try:
            known = read_json(self.memo) if self.memo else {}
        except (OSError, ValueError):
            return {}
        return {key: made for key, made in known.items() if isinstance(made, str)} if isinstance(known, dict) else {}

    def save(self) -> None:
        """Write what is new to the memo, if it can be written."""
        if self.memo and self.new:
            with suppress(OSError):
                there = {key: made for key, made in self.remembered().items() if key not in self.new}
                write_json(self.memo, dict(list((there | self.new).items())[-MOST:]))
                self.new = {}


def contents(root: Path, paths: Sequence[str]) -> tuple[bytes, bool]:
    """Paths and the digests of their contents, one after the other, and whether all of them could be read."""
    words, complete = [], True
    for path in paths:
        name = f"{root}{os.sep}{path}"
        try:
            if not os.path.isfile(name):  # a pipe would wait for ever, a device have no end
                raise FileNotFoundError(name)
            with open(name, "rb", buffering=0) as file:
                words.append(f"{path}\0{hashlib.sha256(file.read()).hexdigest()}\n")
        except OSError:
            words.append(f"{path}\0gone\n")
            complete = False
    return "".join(words).encode(), complete
