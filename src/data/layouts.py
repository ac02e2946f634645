"""How a data set's images are laid out, as its yaml says (conf/track)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from src.data.tables import Line

LAYOUTS = ("<class>", "<context>/<class>", "<class>/<context>", "<class>/**")
"""Folders of an image below a part's folder; ** stands for any folders, which mean nothing."""
FLAT = ""
"""The layout of test images without truth."""
RESERVED = ("manifests", "multirun", "debug")
"""Names that a data set cannot have: this project's files and folders use them."""


class Layout(NamedTuple):
    """A data set's name, and where its images lie below the data root (conf/track/*.yaml); None: found.

    `val_dir` and `test_dir` are looked for only where train_dir is None too.
    """

    name: str
    train_dir: str | None = None
    val_dir: str | None = None
    test_dir: str | None = None
    label_map: str | None = None
    layout: str | None = None
    table: str | None = None

    @property
    def is_found(self) -> bool:
        """Whether anything is to be inferred from the folders."""
        return self.table is None and (self.train_dir is None or self.layout is None)

    def check(self) -> None:
        """Raise ValueError for settings that describe no data set."""
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.+-]{0,59}", self.name) or self.name in RESERVED:
            raise ValueError(
                f"track.name is {self.name!r}: expected up to 60 letters, digits and . _ + -, and none of "
                f"{', '.join(RESERVED)}"
            )
        for key in ("train_dir", "val_dir", "test_dir", "label_map", "table"):
            value = getattr(self, key)
            if value is None:
                continue
            if not isinstance(value, str) or not value or value[0] == "/" or ".." in value.split("/"):
                raise ValueError(f"track.{key} is {value!r}: expected a path below the data root (a text, without ..)")
            if key == "table" and "/" in value.removeprefix("./"):
                raise ValueError(
                    f"track.table is {value!r}: expected a file in the data root itself, to whose folder its paths are "
                    f"relative: data=<data root>/{value}"
                )
        if self.layout is not None and self.layout not in LAYOUTS:
            raise ValueError(f"track.layout is {self.layout!r}: expected one of {', '.join(map(repr, LAYOUTS))}")


class Part(NamedTuple):
    """Images of one part: a folder below the data root ("." for itself), and their folders in it."""

    folder: str
    layout: str

    @property
    def has_contexts(self) -> bool:
        return "<context>" in self.layout

    @property
    def levels(self) -> int:
        """How many folders of an image are its class's or context's."""
        return self.layout.count("<")

    @property
    def expected(self) -> str:
        """The path of an image, for messages."""
        return "/".join(word for word in (self.folder, self.layout, "<image>") if word not in (".", FLAT))


class Sources(NamedTuple):
    """Where the images of a data set are.

    Attributes:
        train, val, test: the parts that there are; of a table none.
        label_map: the user's, below the data root; None: there is none.
        table: a CSV in the data root, in place of folders.
        lines: its images.
        passed_over: folders with images that belong to none of the parts.
    """

    train: Part | None
    val: Part | None
    test: Part | None
    label_map: str | None
    table: str | None = None
    lines: Sequence[Line] = ()
    passed_over: Sequence[str] = ()

    @property
    def has_test(self) -> bool:
        """Whether there are test images, or should be."""
        return self.test is not None or any(line.part == "test" for line in self.lines)

    @property
    def words(self) -> str:
        """Where the images are, in a line."""
        if self.table:
            return f"the table {self.table}"
        parts = (("training", self.train), ("held-out", self.val), ("test", self.test))
        found = ", ".join(f"{which} images {part.expected}" for which, part in parts if part)
        return found + (f"; not used: {', '.join(self.passed_over)}" if self.passed_over else "")
