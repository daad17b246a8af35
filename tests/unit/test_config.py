"""The configuration: where values come from, and what bad ones get."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from cephfs_ext.core.config import (
    Config,
    Loaded,
    Source,
    load_config,
    parse_duration,
    parse_source,
)
from cephfs_ext.core.errors import ExitCode, UserError


def load(*options: str, file: Path | None = None, **environment: str) -> Loaded:
    name = None if file is None else str(file)
    return load_config(name, environment=environment, options=options)


def refused(*options: str, file: Path | None = None, **environment: str) -> UserError:
    with pytest.raises(UserError) as caught:
        load(*options, file=file, **environment)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.toml"


def test_defaults() -> None:
    loaded = load()
    assert loaded.config == Config()
    assert loaded.origins == {}
    assert loaded.config.trash.retention_s == 7 * 86400


def test_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().config.trash.enabled = False  # type: ignore[misc]


def test_file_over_defaults(file: Path) -> None:
    file.write_text('[trash]\nretention_s = "12h"\nshards = 8\n[log]\nformat = "text"\n')
    loaded = load(file=file)
    assert loaded.config.trash.retention_s == 12 * 3600
    assert loaded.config.trash.shards == 8
    assert loaded.config.log.format == "text"
    assert loaded.config.mount == Config().mount
    assert loaded.origins["trash.shards"] == str(file)


def test_environment_over_file_and_flags_over_both(file: Path) -> None:
    file.write_text("[trash]\nretention_s = 1\nshards = 1\nevent_gap_s = 1\n")
    loaded = load(
        "trash.shards=3",
        file=file,
        CEPHFS_EXT_TRASH_SHARDS="2",
        CEPHFS_EXT_TRASH_RETENTION_S="2s",
    )
    assert (loaded.config.trash.event_gap_s, loaded.config.trash.retention_s) == (1.0, 2.0)
    assert loaded.config.trash.shards == 3
    assert loaded.origins == {
        "trash.event_gap_s": str(file),
        "trash.retention_s": "CEPHFS_EXT_TRASH_RETENTION_S",
        "trash.shards": "-o trash.shards=3",
    }


def test_other_variables_are_not_ours() -> None:
    loaded = load(CEPHFS_EXT_SOCKET="/run/x.sock", HOME="/root", CEPHFS="1")
    assert loaded.config == Config()


@pytest.mark.parametrize("word", ["true", "TRUE", "yes", "1"])
def test_words_for_true(word: str) -> None:
    assert load(f"read_only={word}").config.mount.read_only is True


@pytest.mark.parametrize("word", ["false", "no", "0"])
def test_words_for_false(word: str) -> None:
    assert load(f"trash.enabled={word}").config.trash.enabled is False


def test_flag_without_value_is_true() -> None:
    assert load("read_only").config.mount.read_only is True


def test_options_of_mount() -> None:
    ignored = "rw allow_other default_permissions nosuid nodev auto noauto _netdev nofail relatime"
    assert load(*ignored.split(), "x-systemd.automount", "x-anything=1").config == Config()
    loaded = load("ro", "noexec")
    assert loaded.config.mount.read_only
    assert loaded.config.mount.noexec


def test_every_option_that_mount_8_may_pass() -> None:
    options = "sync dirsync lazytime strictatime nodiratime silent owner user=root X-mount.mkdir"
    assert load(*options.split(), "comment=of the operator").config == Config()


def test_remounting_is_refused_with_the_way_out() -> None:
    assert "unmount, then mount" in str(refused("remount", "ro"))


def test_last_flag_wins() -> None:
    assert load("shards=2", "shards=5").config.trash.shards == 5
    assert load("noexec", "exec", "ro", "rw").config == Config()


def test_rw_over_file(file: Path) -> None:
    file.write_text("[mount]\nread_only = true\n")
    assert load("rw", file=file).config.mount.read_only is False


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("12h", 43200),
        ("7d", 604800),
        ("2w", 1209600),
        ("1.5h", 5400),
        (" 7 d ", 604800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1", "7y", "1h30m", "1e3", "∞", "nan"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no duration; write"):
        parse_duration(text)


class TestRefused:
    """Every error names the place, the key and the fix."""

    def test_unknown_key_names_file_key_and_nearest(self, file: Path) -> None:
        file.write_text("[trash]\nretention = 1\n")
        error = refused(file=file)
        assert error.exit_code == ExitCode.USAGE
        assert str(error) == (f"{file}: unknown key trash.retention; did you mean retention_s?")

    def test_unknown_section(self, file: Path) -> None:
        file.write_text("[trsh]\nretention_s = 1\n")
        assert str(refused(file=file)).endswith("unknown section [trsh]; did you mean trash?")

    def test_nothing_near_lists_what_is_known(self, file: Path) -> None:
        file.write_text("[zzz]\n")
        assert str(refused(file=file)).endswith(
            "known are asyncdelete, ceph, control, log, mount, trash"
        )

    def test_value_outside_of_a_section(self, file: Path) -> None:
        file.write_text("trash = 5\n")
        assert "must be a section [trash]" in str(refused(file=file))

    def test_unknown_variable(self) -> None:
        error = refused(CEPHFS_EXT_TRASH_SHARD="1")
        assert error.exit_code == ExitCode.USAGE
        assert "CEPHFS_EXT_TRASH_SHARD; did you mean shards?" in str(error)

    def test_unknown_section_of_a_variable(self) -> None:
        refused(CEPHFS_EXT_TRSH_SHARDS="1")

    def test_unknown_flag(self) -> None:
        assert "did you mean retention_s?" in str(refused("retention=7d"))
        assert "did you mean retention_s?" in str(refused("trash.retention=7d"))
        assert "did you mean trash?" in str(refused("tresh.shards=1"))

    @pytest.mark.parametrize("value", ["'7 days'", "true", "-1", "nan", "[1]", "'7y'"])
    def test_wrong_duration(self, file: Path, value: str) -> None:
        file.write_text(f"[trash]\nretention_s = {value}\n")
        error = refused(file=file)
        assert error.exit_code == ExitCode.USAGE
        assert f"{file}: trash.retention_s: " in str(error)

    @pytest.mark.parametrize("value", ["'many'", "1.5", "true", "0", "257", "-1"])
    def test_wrong_number_of_shards(self, file: Path, value: str) -> None:
        file.write_text(f"[trash]\nshards = {value}\n")
        assert f"{file}: trash.shards: " in str(refused(file=file))

    @pytest.mark.parametrize("value", ["1", "'maybe'", "1.0"])
    def test_wrong_truth(self, file: Path, value: str) -> None:
        file.write_text(f"[trash]\nenabled = {value}\n")
        assert "neither true nor false" in str(refused(file=file))

    def test_wrong_choice_lists_the_choices(self) -> None:
        assert "none of debug, info, warning, error" in str(refused("log.level=loud"))

    @pytest.mark.parametrize(
        ("option", "limits"),
        [
            ("shards=0", "1 to 256"),
            ("cache_size=-5", "1 to 2147483647"),
            ("mount_timeout_s=0.2", "1 to 3600"),
            ("expire_interval_s=0", "1 to 3153600000"),
            ("event_gap_s=101w", None),
            ("event_gap_s=6000w", "0 to 3153600000"),
            ("truncated_min_bytes=4398046511104", None),
            ("truncated_min_bytes=-1", "0 to 9223372036854775807"),
        ],
    )
    def test_limits_are_named(self, option: str, limits: str | None) -> None:
        if limits is None:
            load(option)
        else:
            assert f"must be {limits}" in str(refused(option))

    def test_number_for_text(self, file: Path) -> None:
        file.write_text("[ceph]\nid = 5\n")
        assert "ceph.id: 5 is no text" in str(refused(file=file))

    def test_file_missing(self, file: Path) -> None:
        error = refused(file=file)
        assert error.exit_code == ExitCode.NOT_FOUND
        assert str(file) in str(error)

    def test_file_is_not_toml(self, file: Path) -> None:
        file.write_text("[trash\n")
        error = refused(file=file)
        assert error.exit_code == ExitCode.USAGE
        assert "not valid TOML" in str(error)

    def test_file_is_not_utf8(self, file: Path) -> None:
        file.write_bytes(b'[log]\nfile = "\xff"\n')
        assert refused(file=file).exit_code == ExitCode.USAGE

    @pytest.mark.parametrize("value", ["inf", "1e15"])
    def test_retention_without_a_calendar(self, file: Path, value: str) -> None:
        file.write_text(f"[trash]\nretention_s = {value}\n")
        refused(file=file)

    def test_interval_of_nothing(self) -> None:
        refused("expire_interval_s=0")

    def test_cache_below_nothing(self, file: Path) -> None:
        file.write_text("[ceph]\ncache_size = -5\n")
        refused(file=file)


class TestSource:
    def test_posix(self) -> None:
        assert parse_source("posix:/srv/data") == Source("posix", "/srv/data")

    def test_posix_relative_is_made_absolute(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/usr")
        assert parse_source("posix:lib/..") == Source("posix", "/usr")

    def test_colon_in_a_name(self) -> None:
        assert parse_source("posix:/srv/a:b").path == "/srv/a:b"

    def test_ceph(self) -> None:
        assert parse_source("ceph:/users") == Source("ceph", "/users")
        assert str(parse_source("ceph:/")) == "ceph:/"

    @pytest.mark.parametrize(
        "text", ["", "posix", "posix:", "ceph:", "ceph:users", "/srv", "nfs:/x"]
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(UserError, match=r"write posix:DIR or ceph:/SUBDIR") as caught:
            parse_source(text)
        assert caught.value.exit_code == ExitCode.USAGE


def test_operations_md_has_every_key_and_default() -> None:
    text = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    section = text.split("## Configuration", 1)[1].split("\n## ", 1)[0]
    documented = re.findall(r"^\| `(\w+\.\w+)` \| `(.*?)` \| .+ \|$", section, re.MULTILINE)
    assert documented == [
        (f"{name}.{key}", json.dumps(value))
        for name, values in dataclasses.asdict(Config()).items()
        for key, value in values.items()
    ]
