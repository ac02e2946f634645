"""What comments and documents say of each other: every document, section, heading and link that is named exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [
    ROOT / "train.py",
    ROOT / "predict.py",
    ROOT / "Makefile",
    *sorted(
        path
        for folder in ("src", "conf", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".html") and path != Path(__file__).resolve()
    ),
]
NUMBER = r"\d+(?:\.\d+)*"
REFERENCE = re.compile(
    r"(?<![\w/.-])(?P<file>docs/[\w./-]*?\w\.md|[A-Z][A-Z_]+\.md|README|CONTRIBUTING)\b"
    rf"(?:,? sections? (?P<sections>{NUMBER}(?:(?:, and |, | and | to ){NUMBER})*)"
    r'|,? \\?"(?P<heading>[^"\\]+)\\?"|#(?P<anchor>[\w-]+))?'
)
"""As in: docs/method.md, sections 2, 3 and 5; README, "Results"; README.md#results."""
LINK = re.compile(
    r"\[[^\]]*\]\(([^)\s]+)\)|(?<=\))\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)|\bsrc=\"([^\"]+)\"", re.MULTILINE
)
"""A link, what a picture links to, a link's target by name, a picture's."""


def without_code(text: str) -> str:
    """A document without its fenced and indented code, and without what stands between backticks."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ {4}.*", "", text, flags=re.MULTILINE))


def headings(document: Path) -> list[str]:
    """A document's headings, without their #s, as they are read."""
    text = re.sub(r"^ *```.*?^ *```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#{1,6} +(.+?) *#*$", text, flags=re.MULTILINE)
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading) for heading in found]


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings, and those that it has itself."""
    made: dict[str, int] = {}
    for heading in headings(document):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        made[slug] = made.get(slug, -1) + 1
    own = re.findall(r"<a (?:name|id)=\"([^\"]+)\"", document.read_text())
    return {slug if k == 0 else f"{slug}-{k}" for slug, count in made.items() for k in range(count + 1)} | set(own)


def references(text: str) -> Iterator[re.Match[str]]:
    """The references in a source file or a document; one may go on in the next line of a comment."""
    return REFERENCE.finditer(re.sub(r"[ \t]*\n[ \t]*(?:#+[ \t]*)?", " ", text))


def fault(reference: re.Match[str]) -> str | None:
    """What is wrong with a reference, None where it holds."""
    name = reference["file"] if reference["file"].endswith(".md") else f"{reference['file']}.md"
    if not (ROOT / name).is_file():
        return f"{reference[0]}: there is no {name}"
    known = headings(ROOT / name)
    for number in re.findall(NUMBER, reference["sections"] or ""):
        if not any(re.match(rf"{re.escape(number)}\.? ", heading) for heading in known):
            return f"{reference[0]}: {name} has no section {number}"
    unnumbered = [re.sub(rf"^{NUMBER}\.? ", "", heading) for heading in known]
    if (heading := reference["heading"]) and heading not in (*known, *unnumbered):
        return f"{reference[0]}: {name} has no heading {heading!r}"
    if (anchor := reference["anchor"]) and anchor not in anchors(ROOT / name):
        return f"{reference[0]}: {name} has no anchor #{anchor}"
    return None


def link_fault(document: Path, target: str) -> str | None:
    """What is wrong with a link of a document, None where it leads somewhere, or out of the repository by a scheme."""
    if re.match(r"[a-z][a-z+.-]*:", target):
        return None
    path, _, anchor = target.partition("#")
    to = (document.parent / path).resolve() if path else document
    if not to.is_relative_to(ROOT) or not to.exists():
        return f"{target}: there is no such file"
    return f"{target}: {to.name} has no such heading" if anchor and anchor not in anchors(to) else None


def test_every_reference_names_a_document_and_a_heading_that_exist() -> None:
    found = [(path, reference) for path in [*SOURCES, *DOCUMENTS] for reference in references(path.read_text())]
    assert sum(bool(reference["sections"]) for _, reference in found) > 0, "no reference to a section was found"
    wrong = [f"{path.relative_to(ROOT)}: {why}" for path, reference in found if (why := fault(reference))]
    assert not wrong, "\n".join(wrong)


def test_a_document_below_docs_is_named_by_its_path() -> None:
    names = {"method.md", *(path.name for path in (ROOT / "docs").rglob("*.md"))} - {"README.md", "CONTRIBUTING.md"}
    bare = re.compile(rf"(?<![\w/.-])(?:{'|'.join(map(re.escape, sorted(names)))})\b")
    for path in [*SOURCES, *DOCUMENTS]:
        text = LINK.sub("", path.read_text()) if path in DOCUMENTS else path.read_text()
        named = bare.findall(text)
        assert not named, f"{path.relative_to(ROOT)} names {named[0]} without docs/"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    targets = [next(filter(None, groups)) for groups in LINK.findall(without_code(document.read_text()))]
    wrong = [why for target in targets if (why := link_fault(document, target))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("docs/method.md", True),
        ("(docs/method.md, section 5).", True),
        ("docs/method.md, sections 2, 3 and 5", True),
        ("# docs/method.md,\n    # section 9", True),
        ('docs/method.md, "By frequency"', True),
        ('docs/method.md, "Decoupled mixup"', True),
        ("docs/method.md#by-frequency", True),
        ("docs/methods.md", False),
        ("UPGRADE_NEVER.md", False),
        ("docs/method.md, section 12", False),
        ("docs/method.md, sections 2, 3 and 12", False),
        ("docs/method.md,\n    section 12", False),
        ('docs/method.md, "By colour"', False),
        ("docs/method.md#by-colour", False),
    ],
)
def test_what_is_wrong_is_found(text: str, right: bool) -> None:
    (reference,) = references(text)
    assert (fault(reference) is None) == right


def test_a_picture_and_what_it_links_to_are_found() -> None:
    assert [next(filter(None, groups)) for groups in LINK.findall("[![a b](a.png)](b.md)")] == ["a.png", "b.md"]


def test_wrong_links_are_found() -> None:
    document = ROOT / "docs" / "method.md"
    for target in ("../README.md", "method.md#5-decoupled-mixup", "#the-rules", "https://arxiv.org/abs/2210.14783"):
        assert link_fault(document, target) is None, target
    for target in ("README.md", "#the-rule", "method.md#5-decoupled", "../../elsewhere"):
        assert link_fault(document, target), target
