"""What a folder of images holds: the images, and what is left out of a scan, by kind, with its first name."""

from __future__ import annotations

import os
import re
import stat
import warnings
from typing import NamedTuple

from src.data.headers import STRONG_MAGIC

EXTENSIONS = frozenset(re.findall(r"\S+", ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm"))
"""Of files that are read as images, in lower case."""
RAW = ".dng .cr2 .cr3 .crw .nef .arw .raf .orf .rw2 .pef .srw .raw"
CONVERT = frozenset(re.findall(r"\S+", f".heic .heif .avif .jxl .jp2 .psd .svg .exr .hdr {RAW}"))
"""Of images in formats that are not read, or not everywhere."""
THUMBNAILS = frozenset(("@eadir", ".thumbnails", "__macosx", "#recycle", "@recycle", "$recycle.bin", "#snapshot"))
"""Folders that a NAS, a desktop or an archive fills with thumbnails and leftovers, in lower case."""
SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini"))
LOOKS = 8  # files of an unknown extension whose first bytes a scan looks at


class LeftOut:
    """What one scan leaves out: {kind: paths}.

    Args:
        top: the folder that is scanned.
        setting: that names the folder which no link may leave: data_root, or images.
        used: a file that is read, though it is no image: the label map.
    """

    def __init__(self, top: str, setting: str = "data_root", used: str | None = None) -> None:
        self.top, self.setting, self.used, self.looks = top, setting, used and os.path.normpath(used), 0
        self.kinds: dict[str, list[str]] = {}

    def add(self, kind: str, path: str) -> None:
        """Leave out a path; `kind` says what it is, and after a semicolon what can be done."""
        self.kinds.setdefault(kind, []).append(os.path.relpath(path, self.top))

    def add_file(self, path: str, ending: str) -> None:
        """Leave out a file that has no image's extension."""
        if os.path.basename(path).lower() in SYSTEM_FILES or os.path.normpath(path) == self.used:
            return
        kind = ending or "without an extension"
        if ending in CONVERT:
            kind += "; convert such images to JPEG or PNG"
        elif self.looks < LOOKS:
            self.looks += 1
            if holds_image(path):
                kind += " with an image inside; give such files the extension of their format"
        self.add(kind, path)

    def warn(self, title: str) -> None:
        """Say all of it in one warning, by one process of a machine."""
        if not self.kinds or os.environ.get("LOCAL_RANK", "0") != "0":
            return
        parts = []
        for kind, paths in sorted(self.kinds.items()):
            name, _, advice = kind.partition("; ")
            names = ", ".join(sorted(paths)[:2]) + (", ..." if len(paths) > 2 else "")
            parts.append(f"{len(paths)} {name} ({names})" + (f": {advice}" if advice else ""))
        warnings.warn(f"{title}: not read below {self.top} are {'; '.join(parts)}", stacklevel=3)


class Folder(NamedTuple):
    """Names of a folder's images and of its folders, sorted, without what is hidden or left out."""

    images: list[str]
    folders: list[str]


def look_into(path: str, root: str, left_out: LeftOut) -> Folder:
    """What a folder holds.

    Args:
        path: the folder.
        root: a real path that no link may leave.
        left_out: takes up the rest.

    Raises:
        OSError: the folder cannot be read.
        ValueError: a link leads out of `root`.
    """
    images, folders = [], []
    try:
        with os.scandir(path) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        raise OSError(
            f"the folder {path} cannot be read ({error.strerror}): change its permissions, or move it away"
        ) from error
    for entry in entries:
        ending = os.path.splitext(entry.name)[1].lower()
        if entry.name.lower() in THUMBNAILS:
            left_out.add("folder(s) of thumbnails or leftovers", entry.path)
        elif entry.name.startswith("."):
            if ending in EXTENSIONS:
                left_out.add("hidden image(s)", entry.path)
            elif entry.is_dir(follow_symlinks=False) and names_images(entry.path):
                left_out.add("hidden folder(s) with images", entry.path)
        else:
            kind = kind_of(entry)
            if entry.is_symlink() and kind != BROKEN:
                refuse_outside(entry.path, root, left_out.setting)
            if kind == "folder":
                folders.append(entry.name)
            elif kind != "file":
                left_out.add(kind, entry.path)
            elif ending in EXTENSIONS:
                images.append(entry.name)
            else:
                left_out.add_file(entry.path, ending)
    return Folder(images, folders)


BROKEN = "link(s) to nothing; fetch what they stand for (git annex get) or remove them"


def kind_of(entry: os.DirEntry[str]) -> str:
    """ "file", "folder", or what else an entry is, its link followed."""
    if not entry.is_symlink() and entry.is_file():  # without a call of the system, of nearly all
        return "file"
    try:
        mode = os.stat(entry.path).st_mode
    except OSError:
        return BROKEN
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "pipe(s), socket(s) or device(s)"


def refuse_outside(path: str, root: str, setting: str = "data_root") -> None:
    """Raise ValueError where `path`, links followed, is not below `root` (a real path), which `setting` gives."""
    real = os.path.realpath(path)
    if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
        what = "the data root" if setting == "data_root" else "the folder"
        raise ValueError(
            f"{path} leads out of {what} {root} (to {real}): "
            f"move the images below {what}, or set {setting} to the folder that holds them"
        )


LINKED = "link(s) to folders; they are not followed here"


def images_below(path: str, root: str, left_out: LeftOut) -> list[str]:
    """Paths of all images in a folder and below; links to folders are not followed, locked folders left out.

    Raises:
        OSError: the folder itself cannot be read.
        ValueError: a link leads out of `root`.
    """
    waiting, found = [path], []
    while waiting:
        here = waiting.pop()
        try:
            inside = look_into(here, root, left_out)
        except OSError:
            if here == path:
                raise
            left_out.add("folder(s) that cannot be read", here)
            continue
        found += [os.path.join(here, name) for name in inside.images]
        for name in inside.folders:
            folder = os.path.join(here, name)
            if os.path.islink(folder):
                left_out.add(LINKED, folder)
            else:
                waiting.append(folder)
    return found


def names_images(path: str) -> bool:
    """Whether a folder has a file with an image's extension among the first thousand names in it and below."""
    seen = 0
    for _, folders, files in os.walk(path):
        if any(os.path.splitext(name)[1].lower() in EXTENSIONS for name in files):
            return True
        seen += len(folders) + len(files)
        if seen > 1000:
            break
    return False


def holds_image(path: str) -> bool:
    """Whether a regular file begins as an image does."""
    try:
        with open(path, "rb") as file:
            return re.match(STRONG_MAGIC, file.read(64), re.DOTALL) is not None
    except OSError:
        return False


def listing(folder: str | os.PathLike[str]) -> str:
    """The first names in a folder, for messages."""
    names = sorted(os.listdir(folder))
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
