"""Configuration: frozen dataclasses, filled by a strict loader.

Defaults < file (TOML) < environment (`CEPHFS_EXT_TRASH_RETENTION_S`) < flags (`-o key=value`).
An unknown key or a wrong type is an error that names the file, the key and the nearest known one.
Numbers have limits, beside their defaults, wherever they come from.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args, get_type_hints

from cephfs_ext.core.errors import ExitCode, UserError

_ENVIRONMENT = "CEPHFS_EXT_"
_OTHER_VARIABLES = frozenset(["CEPHFS_EXT_CONFIG", "CEPHFS_EXT_SOCKET", "CEPHFS_EXT_CLUSTER_DIR"])
"""Variables with the same beginning that are no settings; the last one is that of the tests."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_WINDOW = re.compile(r"((?:[01]\d|2[0-3]):[0-5]\d)-((?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII)

_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)

_LONGEST_S = 100 * 365 * 86400.0
"""No duration is longer: beyond it there is no calendar."""

_MOST = 2**31 - 1

_SWITCHES: Mapping[str, tuple[str, bool]] = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "noexec": ("noexec", True),
    "exec": ("noexec", False),
}
"""Options of mount(8) that are keys of [mount]."""

_IGNORED_OPTIONS = frozenset([
    "allow_other", "async", "atime", "auto", "_netdev", "comment", "default_permissions",
    "defaults", "dev", "diratime", "dirsync", "group", "helper", "iversion", "lazytime", "loud",
    "mand", "noatime", "noauto", "nodev", "nodiratime", "nofail", "nogroup", "noiversion",
    "nolazytime", "nomand", "noowner", "norelatime", "nostrictatime", "nosuid", "nouser",
    "nousers", "owner", "relatime", "silent", "strictatime", "suid", "sync", "uhelper", "user",
    "users",
])  # fmt: skip
"""Options of mount(8) that change nothing here: `suid` and `dev` are never granted, times are the
storage's, and every change is passed on at once."""


def _between(default: float, least: float, most: float) -> Any:
    """Give a setting a default and limits."""
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


def parse_window(text: str) -> tuple[float, float] | None:
    """Read `22:00-06:00` as seconds of the day; None if it is empty: always.

    Raises:
        ValueError: it is neither.
    """
    if not text:
        return None
    match = _WINDOW.fullmatch(text)
    if match is None or match[1] == match[2]:
        raise ValueError(f"{text!r} is no time of day; write 22:00-06:00")
    begin, end = (int(part[:2]) * 3600.0 + int(part[3:]) * 60 for part in match.groups())
    return begin, end


@dataclasses.dataclass(frozen=True)
class MountConfig:
    """[mount]: how the kernel sees the mount."""

    read_only: bool = False
    attr_timeout_s: float = 1.0
    entry_timeout_s: float = 1.0
    noexec: bool = False
    read_ahead_bytes: int = _between(1 << 20, 0, 1 << 30)
    lane: Literal["auto", "on", "off"] = "off"


@dataclasses.dataclass(frozen=True)
class PolicyRule:
    """[[trash.policy]]: a rule that applies where each of its conditions holds."""

    name: str
    keep: bool = True
    match: tuple[str, ...] = ()
    """Patterns, one of which must match; see `trashbin.policy`."""
    owner_uid: int | None = None
    larger_than_bytes: int | None = None
    smaller_than_bytes: int | None = None
    older_than_s: float | None = None
    """Since the last change of the content."""
    younger_than_s: float | None = None
    retention_s: float | None = None
    """How long it is kept; None: `trash.retention_s`."""
    versions: int | None = dataclasses.field(default=None, metadata={"least": 1, "most": 9999})
    """How many of one name are kept, the newest; None: all."""


@dataclasses.dataclass(frozen=True)
class TrashConfig:
    """[trash]: what is kept, and for how long."""

    enabled: bool = True
    mode: Literal["keep", "shadow"] = "keep"
    retention_s: float = 7 * 86400.0
    shards: int = _between(4, 1, 256)
    expire_interval_s: float = _between(300.0, 1, _LONGEST_S)
    audit_s: float = 90 * 86400.0
    event_gap_s: float = 10.0
    truncated_min_bytes: int = 4096
    foreign_deletes_per_minute: int = _between(0, 0, _MOST)
    high_watermark: float = _between(0.85, 0, 1)
    low_watermark: float = _between(0.8, 0, 1)
    guaranteed_s: float = 86400.0
    when_full: Literal["refuse", "delete"] = "refuse"
    held_max: int = 10_000
    default_policy: bool = True
    policy: tuple[PolicyRule, ...] = ()


@dataclasses.dataclass(frozen=True)
class AsyncdeleteConfig:
    """[asyncdelete]: how trees are removed in the background."""

    jobs_kept_s: float = 86400.0
    in_flight: int = _between(16, 1, 64)
    latency_factor: float = _between(2.0, 0, 100)
    max_rate: int = _between(0, 0, _MOST)
    window: str = dataclasses.field(default="", metadata={"check": parse_window})
    pending: bool = False
    pending_after: int = _between(32, 1, _MOST)
    pending_max: int = _between(20_000, 1, 1_000_000)
    pending_in_flight: int = _between(8, 1, 64)
    recognise_rm: bool = False


@dataclasses.dataclass(frozen=True)
class CephConfig:
    """[ceph]: which cluster, as whom."""

    conf: str = "/etc/ceph/ceph.conf"
    id: str = "admin"
    fs_name: str = ""
    cache_size: int = _between(262_144, 1, _MOST)
    mount_timeout_s: float = _between(20.0, 1, 3600)


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """[control]: sockets of the daemon."""

    runtime_dir: str = "/run/cephfs-ext"
    metrics_listen: str = ""


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """[log]: where log lines go."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: str = ""
    format: Literal["json", "text"] = "json"


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings."""

    mount: MountConfig = dataclasses.field(default_factory=MountConfig)
    trash: TrashConfig = dataclasses.field(default_factory=TrashConfig)
    asyncdelete: AsyncdeleteConfig = dataclasses.field(default_factory=AsyncdeleteConfig)
    ceph: CephConfig = dataclasses.field(default_factory=CephConfig)
    control: ControlConfig = dataclasses.field(default_factory=ControlConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A configuration, and where each value that is no default came from."""

    config: Config
    origins: Mapping[str, str]
    """`section.key` to the name of the file, the environment variable or the flag."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What is served."""

    kind: Literal["posix", "ceph"]
    path: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"


def parse_source(text: str) -> Source:
    """Read `posix:DIR` or `ceph:/SUBDIR`.

    Raises:
        UserError: it is neither.
    """
    kind, colon, path = text.partition(":")
    if kind == "posix" and colon and path:
        return Source("posix", os.path.abspath(path))
    if kind == "ceph" and colon and path.startswith("/"):
        return Source("ceph", path)
    raise UserError(
        f"SOURCE {text!r} is not understood; write posix:DIR or ceph:/SUBDIR", ExitCode.USAGE
    )


def parse_duration(text: str) -> float:
    """Read `90`, `90s`, `30m`, `12h`, `7d` or `2w` as seconds.

    Raises:
        ValueError: it is none of these.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write 90s, 30m, 12h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def load_config(
    file: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    options: Iterable[str] = (),
) -> Loaded:
    """Build the configuration.

    Args:
        file: TOML file; None for none.
        environment: variables; those of the process by default.
        options: flags, `section.key=value`, `key=value` where the key is in one section only, or
            an option of mount(8).

    Raises:
        UserError: exit code 2, for anything that is not understood; 3 for a missing file.
    """
    merge = _Merge()
    if file is not None:
        merge.file(file)
    merge.environment(os.environ if environment is None else environment)
    for option in options:
        merge.option(option)
    return merge.result()


class _Merge:
    """Collects values, the later ones over the earlier ones."""

    def __init__(self) -> None:
        self._sections = {field.name: field.type for field in dataclasses.fields(Config)}
        self._types = {
            section: get_type_hints(type(getattr(Config(), section))) for section in self._sections
        }
        self._limits: dict[str, dict[str, Mapping[str, Any]]] = {
            section: {
                field.name: field.metadata
                for field in dataclasses.fields(getattr(Config(), section))
            }
            for section in self._sections
        }
        self._values: dict[str, dict[str, Any]] = {section: {} for section in self._sections}
        self._origins: dict[str, str] = {}

    def file(self, path: str) -> None:
        """Take the values of a TOML file."""
        try:
            with open(path, "rb") as stream:
                document = tomllib.load(stream)
        except FileNotFoundError as exc:
            raise UserError(f"{path}: no such configuration file", ExitCode.NOT_FOUND) from exc
        except OSError as exc:
            raise UserError(f"{path}: {exc.strerror}", ExitCode.DENIED) from exc
        except ValueError as exc:  # what isn't UTF-8 is no TOML either
            raise UserError(f"{path}: not valid TOML: {exc}", ExitCode.USAGE) from exc
        for section, values in document.items():
            self._known(section, self._sections, f"{path}: unknown section [{section}]")
            if not isinstance(values, dict):
                raise UserError(f"{path}: {section} must be a section [{section}]", ExitCode.USAGE)
            for key, value in values.items():
                self._known(key, self._types[section], f"{path}: unknown key {section}.{key}")
                self._set(section, key, value, path)

    def environment(self, variables: Mapping[str, str]) -> None:
        """Take the values of environment variables."""
        for name, value in variables.items():
            if not name.startswith(_ENVIRONMENT) or name in _OTHER_VARIABLES:
                continue
            section, _, key = name.removeprefix(_ENVIRONMENT).lower().partition("_")
            problem = f"environment: unknown variable {name}"
            self._known(section, self._sections, problem)
            self._known(key, self._types[section], problem)
            self._set(section, key, value, name)

    def option(self, option: str) -> None:
        """Take one flag."""
        key, equals, value = option.partition("=")
        if key in _IGNORED_OPTIONS or key.lower().startswith("x-"):
            return
        if key == "remount":
            raise UserError("-o remount is not possible; unmount, then mount", ExitCode.USAGE)
        if key in _SWITCHES:
            name, on = _SWITCHES[key]
            self._set("mount", name, on, f"-o {key}")
            return
        section, key = self._place(key)
        self._set(section, key, value if equals else "true", f"-o {option}")

    def _place(self, key: str) -> tuple[str, str]:
        section, dot, rest = key.partition(".")
        if dot:
            self._known(section, self._sections, f"-o {key}: unknown section {section}")
            self._known(rest, self._types[section], f"-o {key}: unknown option")
            return section, rest
        homes = [section for section, types in self._types.items() if key in types]
        if len(homes) == 1:
            return homes[0], key
        if homes:
            choices = " or ".join(f"{home}.{key}" for home in homes)
            raise UserError(f"-o {key} is ambiguous; write {choices}", ExitCode.USAGE)
        every = {name for types in self._types.values() for name in types}
        self._known(key, every, f"-o {key}: unknown option")
        raise AssertionError("unreachable: an unknown key raises")

    def _known(self, name: str, known: Iterable[str], problem: str) -> None:
        names = sorted(known)
        if name in names:
            return
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"
        raise UserError(problem + hint, ExitCode.USAGE)

    def _set(self, section: str, key: str, value: object, origin: str) -> None:
        try:
            converted = _convert(self._types[section][key], value)
            limits = self._limits[section].get(key, {})
            _check_limits(limits, converted)
            if "check" in limits:
                limits["check"](converted)
        except ValueError as exc:
            raise UserError(f"{origin}: {section}.{key}: {exc}", ExitCode.USAGE) from exc
        self._values[section][key] = converted
        self._origins[f"{section}.{key}"] = origin

    def result(self) -> Loaded:
        """Return what has been collected."""
        defaults = Config()
        sections = {
            section: dataclasses.replace(getattr(defaults, section), **values)
            for section, values in self._values.items()
        }
        return Loaded(Config(**sections), dict(self._origins))


def _convert(kind: Any, value: object) -> Any:
    """Convert a value from a file, a variable or a flag."""
    if kind == tuple[PolicyRule, ...]:
        return _rules(value)
    if kind is bool:
        return _boolean(value)
    if kind is float:
        if isinstance(value, str):
            return parse_duration(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return float(value)
        raise ValueError(f"{value!r} is no duration; write seconds, or 30m, 12h, 7d")
    if kind is int:
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ValueError(f"{value!r} is no whole number")
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    choices = getattr(kind, "__args__", None)
    if choices and value not in choices:
        raise ValueError(f"{value!r} is none of {', '.join(choices)}")
    return value


def _check_limits(limits: Mapping[str, float], value: object) -> None:
    """Refuse a number beyond its limits; without any, durations end and sizes fit into 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    longest = _LONGEST_S if isinstance(value, float) else 2**63 - 1
    least, most = limits.get("least", 0), limits.get("most", longest)
    if not least <= value <= most:
        raise ValueError(f"must be {int(least)} to {int(most)}")


def _rules(value: object) -> tuple[PolicyRule, ...]:
    """Convert the tables of a policy; an error names the rule."""
    if not isinstance(value, list):
        raise ValueError("rules are tables, [[trash.policy]], in a file")
    return tuple(_rule(number, fields) for number, fields in enumerate(value, 1))


def _rule(number: int, fields: object) -> PolicyRule:
    if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
        raise ValueError(f"rule {number} needs a name")
    kinds = get_type_hints(PolicyRule)
    limits = {field.name: field.metadata for field in dataclasses.fields(PolicyRule)}
    converted = {}
    for key, value in fields.items():
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(kinds)}"
            raise ValueError(f"rule {fields['name']}: unknown key {key}; {hint}")
        try:
            converted[key] = _condition(kinds[key], value)
            _check_limits(limits[key], converted[key])
        except ValueError as exc:
            raise ValueError(f"rule {fields['name']}: {key}: {exc}") from exc
    rule = PolicyRule(**converted)
    if not rule.keep and (rule.retention_s, rule.versions) != (None, None):
        raise ValueError(f"rule {rule.name}: keep = false leaves nothing to keep for a time")
    return rule


def _condition(kind: Any, value: object) -> Any:
    if kind == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
            raise ValueError(f"{value!r} is no list of patterns")
        return tuple(value)
    choices = get_args(kind)
    return _convert(choices[0] if choices else kind, value)


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError(f"{value!r} is neither true nor false")
