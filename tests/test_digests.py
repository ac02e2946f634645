"""A remembered digest is that of the content, whatever happened to the file since."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from src import digests
from src.digests import Digests, facts_of
from src.files import digest_of

OLD = time.time() - 1000


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read; with the wait for the clock's tick left out."""
    monkeypatch.setattr(digests, "RACY", 0)
    seen: list[str] = []

    def counted(path: Path) -> str:
        seen.append(path.name)
        return digest_of(path)

    monkeypatch.setattr(digests, "digest_of", counted)
    return seen


def touched(path: Path) -> None:
    os.utime(path)


def replaced_by_a_rename(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"new!")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


def truncated(path: Path) -> None:
    before = path.stat()
    os.truncate(path, 2)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def written_in_place_with_its_old_modification_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"new!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


CHANGES = [touched, replaced_by_a_rename, truncated, written_in_place_with_its_old_modification_time]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_is_read_once_and_again_after_any_change(
    change: Callable[[Path], None], tmp_path: Path, reads: list[str]
) -> None:
    path, memo = tmp_path / "weights", tmp_path / "memo.json"
    path.write_bytes(b"old!")
    first = Digests(memo)
    assert first.of(path) == hashlib.sha256(b"old!").hexdigest()
    first.save()
    assert Digests(memo).of(path) == hashlib.sha256(b"old!").hexdigest() and reads == ["weights"]
    time.sleep(0.01)  # a tick of the kernel's clock, which stamps the change
    change(path)
    assert Digests(memo).of(path) == digest_of(path) and reads == ["weights", "weights"]
    assert facts_of(tmp_path, ["weights"]).digest not in memo.read_text()


@pytest.mark.parametrize("change", CHANGES)
def test_a_set_of_files_too(change: Callable[[Path], None], tmp_path: Path, reads: list[str]) -> None:
    root, memo = tmp_path / "images", tmp_path / "memo.json"
    root.mkdir()
    for name in "abc":
        (root / name).write_bytes(b"old!")
    before = Digests(memo).of_files(root, ["a", "b", "c"])
    time.sleep(0.01)
    change(root / "b")
    assert Digests(memo).of_files(root, ["a", "b", "c"]) == Digests(None).of_files(root, ["a", "b", "c"])
    assert (Digests(memo).of_files(root, ["a", "b", "c"]) == before) == (change is touched)


def test_a_set_s_digest_is_of_paths_and_contents_alone(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("1")
        (tmp_path / folder / "b").write_text("2")
    os.utime(tmp_path / "there/a", (OLD, OLD))
    of = Digests().of_files
    made = of(tmp_path / "here", ["a", "b"])
    lines = "".join(f"{name}\0{hashlib.sha256(text).hexdigest()}\n" for name, text in (("a", b"1"), ("b", b"2")))
    assert made == hashlib.sha256(lines.encode()).hexdigest() == of(tmp_path / "there", ["a", "b"])
    others = [["b", "a"], ["a"], ["a", "b", "b"], ["a", "gone"], []]
    assert len({made, *(of(tmp_path / "here", names) for names in others)}) == 6


def test_a_set_is_read_once(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("1")
    first = Digests(tmp_path / "memo.json").of_files(tmp_path, ["a"])
    monkeypatch.setattr(digests, "contents", None)
    assert Digests(tmp_path / "memo.json").of_files(tmp_path, ["a"]) == first


def test_what_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    """It could be written again within one tick of a coarse clock, and look the same."""
    path, memo = tmp_path / "a", tmp_path / "memo.json"
    path.write_text("1")
    os.utime(path, (OLD, OLD))  # its change time is young
    for _ in range(2):
        known = Digests(memo)
        known.of(path)
        known.of_files(tmp_path, ["a"])
        known.save()
        assert not memo.exists()


def test_a_file_that_cannot_be_read_is_never_remembered(tmp_path: Path, reads: list[str]) -> None:
    (tmp_path / "folder").mkdir()
    assert Digests(tmp_path / "memo.json").of_files(tmp_path, ["folder"])
    assert not (tmp_path / "memo.json").exists()
    with pytest.raises(OSError):
        Digests().of(tmp_path / "gone")


def test_verify_finds_a_change_that_no_fact_shows(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, memo = tmp_path / "a", tmp_path / "memo.json"
    path.write_text("old")
    monkeypatch.setattr(digests, "facts_of", lambda root, paths: digests.Facts("the same", 0))
    known = Digests(memo)
    old, old_set = known.of(path), known.of_files(tmp_path, ["a"])
    known.save()
    path.write_text("new")
    assert Digests(memo).of(path) == old and Digests(memo).of_files(tmp_path, ["a"]) == old_set
    verified = Digests(memo, verify=True)
    new, new_set = verified.of(path), verified.of_files(tmp_path, ["a"])
    assert new == digest_of(path) != old and new_set != old_set
    verified.save()
    assert Digests(memo).of(path) == new and Digests(memo).of_files(tmp_path, ["a"]) == new_set


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b'{"a": 1}', b"null", b"[" * 100_000])
def test_a_damaged_memo_is_no_memo(garbage: bytes, tmp_path: Path, reads: list[str]) -> None:
    path, memo = tmp_path / "a", tmp_path / "memo.json"
    path.write_text("1")
    memo.write_bytes(garbage)
    known = Digests(memo)
    assert known.of(path) == digest_of(path)
    known.save()
    assert list(json.loads(memo.read_text()).values()) == [digest_of(path)]


def test_a_memo_that_cannot_be_written_costs_time_alone(tmp_path: Path, reads: list[str]) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "file").write_text("no folder")
    known = Digests(tmp_path / "file" / "memo.json")
    assert known.of(tmp_path / "a") == digest_of(tmp_path / "a")
    known.save()


def test_two_at_once_lose_nothing_that_is_wrong(tmp_path: Path, reads: list[str]) -> None:
    paths, memo = [tmp_path / str(i) for i in range(40)], tmp_path / "memo.json"
    for path in paths:
        path.write_text(path.name)

    def work(own: list[Path]) -> None:
        for path in own:
            known = Digests(memo)
            known.of(path)
            known.save()

    # write_whole's temporary file is a process's own: processes, not threads
    code = (
        "import sys; from pathlib import Path; from src import digests; digests.RACY = 0\n"
        "for path in map(Path, sys.argv[2:]):\n"
        "    known = digests.Digests(Path(sys.argv[1])); known.of(path); known.save()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(memo), *map(str, paths[20:])])
    thread = threading.Thread(target=work, args=(paths[:20],))
    thread.start()
    thread.join()
    assert other.wait() == 0
    assert all(Digests(memo).of(path) == digest_of(path) for path in paths)
    assert set(json.loads(memo.read_text()).values()) <= {digest_of(path) for path in paths}


def test_a_memo_does_not_grow_without_end(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "MOST", 3)
    for i in range(5):
        (tmp_path / str(i)).write_text(str(i))
        known = Digests(tmp_path / "memo.json")
        known.of(tmp_path / str(i))
        known.save()
    kept = json.loads((tmp_path / "memo.json").read_text())
    assert list(kept.values()) == [digest_of(tmp_path / str(i)) for i in (2, 3, 4)]
