"""What is asked of the journals, and which records fit. Pure."""

from __future__ import annotations

import dataclasses
import json

from cephfs_ext.core.limits import AUDIT_ROWS
from trashbin import layout
from trashbin.journal import Line, Record, parse_line, path_text
from trashbin.placing import Caller


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """Which deletes are asked for."""

    path: bytes = b""
    """Relative to the served root: of this, of what was below it, and of trees that held it."""
    since_ns: int = 0
    uid: int | None = None
    """Who deleted."""
    event: str = ""
    limit: int = AUDIT_ROWS


class Fitting:
    """Tells which records of one domain are asked for."""

    def __init__(
        self, question: Question, caller: Caller, path: bytes, groups: list[tuple[bytes, ...]]
    ) -> None:
        self._question = question
        self._caller = caller
        self._path = path
        self._groups = groups

    @classmethod
    def of(cls, question: Question, caller: Caller, prefix: bytes) -> Fitting | None:
        """Return the filter for the domain that starts at `prefix`; None if nothing fits."""
        inside = question.path + b"/"
        path = b""
        if question.path and not prefix.startswith(inside):
            if not inside.startswith(prefix):
                return None
            path = question.path[len(prefix) :]
        return cls(question, caller, path, _looks(question, caller, path))

    def read(self, line: bytes) -> Record | None:
        """Return the record of a line, if it fits; most others are passed over unparsed."""
        if not all(any(text in line for text in group) for group in self._groups):
            return None
        return self.among(parse_line(line))

    def among(self, line: Line | None) -> Record | None:
        """Return a line if it is a record that fits."""
        return line if isinstance(line, Record) and self._holds_for(line) else None

    def _holds_for(self, record: Record) -> bool:
        cred, question = self._caller.cred, self._question
        parsed = layout.parse_id(record.id)
        return (
            (self._caller.everything or cred.uid in (record.uid, record.owner))
            and (question.uid is None or record.uid == question.uid)
            and (not question.event or record.event == question.event)
            and (parsed is not None and parsed[0] >= question.since_ns)
            and (not self._path or self._is_about(record))
        )

    def _is_about(self, record: Record) -> bool:
        """Tell whether a record is of the path, of something below it, or of a tree around it."""
        if record.path == self._path or record.path.startswith(self._path + b"/"):
            return True
        return record.kind == "tree" and self._path.startswith(record.path + b"/")


def _looks(question: Question, caller: Caller, path: bytes) -> list[tuple[bytes, ...]]:
    """Return texts of which a line that fits has at least one, for each condition."""
    groups: list[tuple[bytes, ...]] = []
    if path:
        beginning = json.dumps(path_text(path))[:-1].encode()
        groups.append((b'"path":' + beginning, b'"kind":"tree"'))
    if question.uid is not None:
        groups.append((b'"uid":%d,' % question.uid,))
    if question.event:
        groups.append((b'"event":' + json.dumps(question.event).encode(),))
    if not caller.everything:
        uid = caller.cred.uid
        groups.append((b'"uid":%d,' % uid, b'"owner":%d,' % uid, b'"owner":%d}' % uid))
    return groups
