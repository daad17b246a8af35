"""The documents say what is true, as far as a program can see it."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cephfs_ext.core.config import Config
from tests import tour
from tests.posix.deviations import CEPH_MOUNT
from trashbin import ancestors, hold, journal, layout, pressure, runs, tombs

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cephfs_ext", "trashbin", "asyncdelete", "c_ext")
SEMANTICS = ROOT / "docs/semantics.md"
FORMAT = ROOT / "docs/format.md"

_DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_SOURCES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.is_file()
)
_TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
_RULE = re.compile(r"^\* \*\*\[([a-z-]+-\d+)\]\*\* ", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_DOTTED = re.compile(r"`((?:cephfs_ext|trashbin|asyncdelete|c_ext)(?:\.\w+)+)`")

_FORBIDDEN = {
    "a path of somebody's machine": r"/work/|/home/(?!ann/)\w+/|/Users/",
    "the host of a package registry": r"pypi\.|pythonhosted|devpi|artifactory|registry\.npmjs",
    "a mark of unfinished work": r"\bTODO\b|\bFIXME\b|\bXXX\b|\bTBD\b|lorem ipsum",
    "praise": r"(?i)\b(blazing|seamless|cutting.edge|state.of.the.art|effortless|world.class)\b",
    "how it was written": r"(?i)\b(chatgpt|claude|copilot|language model|as an ai)\b",
}


def _rules() -> list[str]:
    return _RULE.findall(SEMANTICS.read_text())


def _ids_in(paths: list[Path]) -> dict[str, list[str]]:
    """Return the ids that files name, for the kinds of ids that there are."""
    kinds = "|".join(sorted({rule.rpartition("-")[0] for rule in _rules()}))
    pattern = re.compile(rf"\[((?:{kinds})-\d+)\]")
    named: dict[str, list[str]] = {}
    for path in paths:
        for rule in pattern.findall(path.read_text()):
            named.setdefault(rule, []).append(str(path.relative_to(ROOT)))
    return named


def _blocks(document: Path, kind: str) -> list[str]:
    """Return the lines of all fenced blocks of a kind."""
    pattern = re.compile(rf"^```{kind}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [line for block in pattern.findall(document.read_text()) for line in block.splitlines()]


class TestRules:
    def test_every_rule_has_its_own_id(self) -> None:
        assert len(_rules()) == len(set(_rules())) > 50

    def test_every_rule_is_named_by_a_test(self) -> None:
        assert sorted(set(_rules()) - set(_ids_in(_TESTS))) == []

    def test_every_id_that_is_named_is_a_rule(self) -> None:
        named = _ids_in([*_SOURCES, *_TESTS, *_DOCUMENTS])
        assert {rule: at for rule, at in named.items() if rule not in _rules()} == {}

    def test_references_to_the_document_are_rules(self) -> None:
        """A kind of id that there is none of is noticed, too."""
        for path in [*_SOURCES, *_TESTS]:
            for reference in re.findall(
                r"semantics\.md,? ((?:\[[\w-]+\][,; ]*)+)", path.read_text()
            ):
                assert set(re.findall(r"\[([\w-]+)\]", reference)) <= set(_rules()), path

    def test_deviations_are_those_of_the_suite(self) -> None:
        reasons = {" ".join(reason.split()) for reason in CEPH_MOUNT.values()}
        section = SEMANTICS.read_text().partition("## What POSIX says otherwise")[2]
        rows = re.findall(r"^\| `.* \| (.*) \|$", section, re.MULTILINE)
        assert set(rows) == reasons


class TestFormat:
    """docs/format.md agrees with the code that reads and writes it."""

    def test_entries(self) -> None:
        lines = _blocks(FORMAT, "entries")
        assert len(lines) == 3
        for line in lines:
            entry = layout.parse_entry(line.encode())
            assert entry is not None, line
            flat = entry.path if entry.name else (entry.prefix,)
            assert flat == (line.encode(),)

    def test_tombstones(self) -> None:
        decoded = [tombs.decode(line.encode()) for line in _blocks(FORMAT, "tombstone")]
        assert [tomb.kind for tomb in decoded if tomb is not None] == ["link", "dir"]
        assert [tomb.encode().decode() for tomb in decoded if tomb is not None] == _blocks(
            FORMAT, "tombstone"
        )

    def test_journal(self) -> None:
        lines = [line.encode() + b"\n" for line in _blocks(FORMAT, "journal")]
        records = [journal.parse_line(line) for line in lines]
        assert [record.line() for record in records if record is not None] == lines

    def test_fates(self) -> None:
        lines = [line.encode() + b"\n" for line in _blocks(FORMAT, "fate")]
        fates = [journal.parse_fate(line) for line in lines]
        assert [fate.what for fate in fates if fate is not None] == [
            "restored",
            "purged",
            "expired",
        ]
        assert [fate.line() for fate in fates if fate is not None] == lines

    def test_ancestors(self) -> None:
        lines = [line.encode() + b"\n" for line in _blocks(FORMAT, "ancestor")]
        read = [ancestors.parse_ancestor(line) for line in lines]
        assert [ancestor.line() for ancestor in read if ancestor is not None] == lines
        assert [journal.parse_line(line) or journal.parse_fate(line) for line in lines] == [
            None
        ] * 2

    def test_plans(self) -> None:
        (line,) = _blocks(FORMAT, "plan")
        plan = runs.decode_plan(line.encode())
        assert plan is not None
        assert plan.encode().decode() == line
        assert layout.parse_entry(plan.path[0]) is not None
        assert layout.parse_shard(plan.above) is not None
        assert layout.hour_end_s(plan.hour) is not None

    def test_notes_of_pressure(self) -> None:
        (line,) = _blocks(FORMAT, "pressure")
        assert set(json.loads(line)) == set(pressure.Claimed._fields)

    def test_notes(self) -> None:
        (line,) = _blocks(FORMAT, "note")
        note = hold.decode_note(line.encode())
        assert note is not None
        assert note.encode().decode() == line

    def test_marks(self) -> None:
        (line,) = _blocks(FORMAT, "mark")
        assert set(json.loads(line)) == {"path", "token"}

    @pytest.mark.parametrize(
        ("block", "fields"),
        [
            ("tombstone", set(tombs.Tomb.__dataclass_fields__)),
            ("journal", {*journal.Record.__dataclass_fields__, "path_raw"}),
            ("fate", {*journal.Fate.__dataclass_fields__, "to_raw"}),
            ("ancestor", set(ancestors.Ancestor.__dataclass_fields__)),
            ("plan", set(runs.Plan.__dataclass_fields__)),
            ("pressure", set(pressure.Claimed._fields)),
            ("note", set(hold.Note._fields)),
        ],
    )
    def test_every_field_is_explained(self, block: str, fields: set[str]) -> None:
        after = FORMAT.read_text().partition(f"```{block}\n")[2].partition("\n#")[0]
        cells = re.findall(r"^\| ([^|]*) \|", after, re.MULTILINE)
        explained = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
        assert fields <= explained

    def test_directories_and_version(self) -> None:
        text = FORMAT.read_text()
        assert f'{{"version": {layout.FORMAT_VERSION}}}' in text
        assert text.startswith(f"# The trash on disk, format version {layout.FORMAT_VERSION}\n")
        for name in (*layout.SERVICE_DIRS, layout.FRESH, layout.FORMAT_NAME, layout.TRASH_NAME):
            assert name.decode() in text, name
        assert runs.PLAN == b"plan"
        assert runs.TREE == b"tree"


class TestLinks:
    @pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
    def test_links_lead_somewhere(self, document: Path) -> None:
        for target in _LINK.findall(document.read_text()):
            if target.startswith(("http://", "https://")):
                continue
            path, _, anchor = target.partition("#")
            place = (document.parent / path).resolve() if path else document
            assert place.exists(), target
            assert not anchor or anchor in _anchors(place), target

    @pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
    def test_code_that_is_named_is_there(self, document: Path) -> None:
        for name in _DOTTED.findall(document.read_text()):
            assert _is_defined(name), name

    def test_targets_of_make_are_there(self) -> None:
        makefile = (ROOT / "Makefile").read_text()
        for document in _DOCUMENTS:
            for target in re.findall(
                r"`make ([a-z-]+)`|^make ([a-z-]+)", document.read_text(), re.M
            ):
                assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target

    def test_every_document_can_be_reached_from_the_readme(self) -> None:
        reached, waiting = set(), [ROOT / "README.md"]
        while waiting:
            document = waiting.pop()
            reached.add(document)
            waiting += [place for place in _documents_behind(document) if place not in reached]
        assert set(_DOCUMENTS) <= reached


def _documents_behind(document: Path) -> Iterator[Path]:
    for target in _LINK.findall(document.read_text()):
        place = (document.parent / target.partition("#")[0]).resolve()
        if place.is_dir():
            yield from place.glob("*.md")
        elif place.suffix == ".md":
            yield place


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _is_defined(dotted: str) -> bool:
    """Tell whether a dotted name is a module, something defined in one, or a setting."""
    parts = dotted.split(".")
    if len(parts) == 2 and hasattr(getattr(Config(), parts[0], None), parts[1]):
        return True
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        module = place.with_suffix(".py")
        if module.is_file():
            return _has(ast.parse(module.read_text()).body, parts[length:])
        if place.is_dir():
            return length == len(parts)
    return False


def _has(body: list[ast.stmt], names: list[str]) -> bool:
    if not names:
        return True
    first, *rest = names
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in body if isinstance(node, kinds) and node.name == first]
    return any(_has(node.body, rest) for node in found)


class TestWords:
    @pytest.mark.parametrize("what", _FORBIDDEN)
    def test_nothing_holds(self, what: str) -> None:
        pattern = re.compile(_FORBIDDEN[what])
        found = {
            str(path.relative_to(ROOT)): match.group()
            for path in _texts()
            if (match := pattern.search(path.read_text(errors="replace")))
        }
        assert found == {}


def _texts() -> Iterator[Path]:
    tops = ("docs", "tests", "bench", ".ci", *PACKAGES)
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.name != "LICENSE")
    for top in tops:
        for path in (ROOT / top).rglob("*"):
            if path.suffix in (".py", ".pyi", ".md", ".c", ".h", ".sh", ".toml", "") and (
                path.is_file() and "results" not in path.parts and path != Path(__file__)
            ):
                yield path


class TestVersions:
    def test_changelog_has_the_version(self) -> None:
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
        assert headings[:2] == ["Unreleased", version]

    def test_readme_names_the_version(self) -> None:
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        assert f"Version {version.rpartition('.')[0]}," in (ROOT / "README.md").read_text()


def test_demonstration_works_as_pasted(base: Path) -> None:
    """What the README says to paste after `make run` is pasted."""
    (base / ".venv").symlink_to(sys.prefix)
    gateway = tour._gateway("posix", base / ".run")
    with gateway.mounted():
        environment = {key: value for key, value in os.environ.items() if key != "OLDPWD"}
        done = subprocess.run(
            ["bash", "-e", "-c", "\n".join(_demonstration())],
            cwd=base,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        assert "three weeks of work\n" in done.stdout
        assert (gateway.path / "thesis/chapter1.txt").read_text() == "three weeks of work\n"


def _demonstration() -> list[str]:
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"<!-- demonstration[^\n]*\n```sh\n(.*?)^```$", text, re.M | re.DOTALL)
    return block.splitlines()
