"""The command line itself: loading, help, errors, completion, configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cephfs_ext.cli.main import cli, run
from cephfs_ext.core.config import Config
from cephfs_ext.core.errors import ExitCode, UserError
from tests.gateway import COMMAND

_COMMANDS = [
    "audit", "completion", "config", "jobs", "mount", "rm", "status", "trash", "umount", "worker",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("CEPHFS_EXT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CEPHFS_EXT_CONTROL_RUNTIME_DIR", str(tmp_path / "run"))


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=60)


def test_help_lists_every_command() -> None:
    done = call("--help")
    assert done.returncode == ExitCode.OK
    listed = [line.split()[0] for line in done.stdout.split("Commands:\n")[1].splitlines()]
    assert listed == _COMMANDS


@pytest.mark.parametrize("command", _COMMANDS)
def test_short_help_is_that_of_the_command(command: str) -> None:
    context = click.Context(cli)
    loaded = cli.get_command(context, command)
    assert loaded is not None
    assert loaded.name == command


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_of_a_command(command: str) -> None:
    for flag in ("--help", "-h"):
        done = call(command, flag)
        assert (done.returncode, done.stderr) == (ExitCode.OK, "")
        assert f"cephfs-ext {command}" in done.stdout


def test_help_loads_no_command() -> None:
    script = (
        "import sys; sys.argv = ['cephfs-ext', '--help']\n"
        "from cephfs_ext.cli.main import cli, run\n"
        "run(cli, ['--help'], 'cephfs-ext')\n"
        "heavy = {'httpx', 'msgspec', 'trio', 'rich', 'pyfuse3', 'cephfs_ext.cli.trash'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_version() -> None:
    assert call("--version").stdout == "cephfs-ext, version 0.1.0\n"


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"],
        ["mount"],
        ["status", "--loud"],
        ["trash", "frobnicate"],
        ["completion", "sh"],
    ],
    ids=" ".join,
)
def test_usage_errors(words: list[str]) -> None:
    done = call(*words)
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (UserError("no such thing", ExitCode.NOT_FOUND), 3, "x: error: no such thing\n"),
        (click.ClickException("odd"), 1, "Error: odd\n"),
        (click.UsageError("what"), 2, "Error: what\n"),
        (click.Abort(), 1, "x: interrupted\n"),
        (KeyboardInterrupt(), 1, "x: interrupted\n"),
        (click.exceptions.Exit(6), 6, ""),
    ],
)
def test_errors_are_a_line_and_a_code(
    failure: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        raise failure

    assert run(command, [], "x") == code
    assert capsys.readouterr().err.splitlines()[-1:] == said.splitlines()


def test_a_bug_is_not_hidden() -> None:
    @click.command()
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(command, [], "x")


def test_directory_that_is_gone(tmp_path: Path) -> None:
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" status'
    done = subprocess.run(
        ["/bin/sh", "-c", script, COMMAND], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == ExitCode.NOT_FOUND
    assert "no gateway is running" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    done = call("completion", shell)
    assert done.returncode == ExitCode.OK
    assert "_CEPHFS_EXT_COMPLETE" in done.stdout


def test_completion_completes() -> None:
    wanted = {
        "_CEPHFS_EXT_COMPLETE": "bash_complete",
        "COMP_WORDS": "cephfs-ext trash res",
        "COMP_CWORD": "2",
    }
    done = subprocess.run([COMMAND], capture_output=True, text=True, env={**os.environ, **wanted})
    assert done.stdout.split() == ["plain,restore"]


class TestConfig:
    def test_show(self, tmp_path: Path) -> None:
        file = tmp_path / "gateway.toml"
        file.write_text("[trash]\nshards = 8\n")
        done = call("config", "show", "--config", str(file), "-o", "ro,trash.retention_s=1h")
        lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
        assert "[trash]" in lines
        assert f"shards = 8 # {file}" in lines
        assert "retention_s = 3600.0 # -o trash.retention_s=1h" in lines
        assert "read_only = true # -o ro" in lines
        assert 'format = "json" # default' in lines

    def test_show_can_be_read_back(self, tmp_path: Path) -> None:
        file = tmp_path / "gateway.toml"
        file.write_text(call("config", "show", "-o", "shards=9").stdout)
        done = call("config", "show", "--json", "--config", str(file))
        assert json.loads(done.stdout)["trash"]["shards"] == 9

    def test_show_json(self) -> None:
        document = json.loads(call("config", "show", "--json").stdout)
        assert document["schema_version"] == 1
        assert document["trash"]["retention_s"] == Config().trash.retention_s

    def test_show_json_has_origins(self) -> None:
        assert "-o shards=9" in call("config", "show", "--json", "-o", "shards=9").stdout

    def test_flags_of_ceph(self) -> None:
        done = call("config", "show", "--json", "--ceph-conf", "/x.conf", "--ceph-id", "alice")
        ceph = json.loads(done.stdout)["ceph"]
        assert (ceph["conf"], ceph["id"]) == ("/x.conf", "alice")

    def test_file_from_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "gateway.toml").write_text("[trash]\nshards = 8\n")
        monkeypatch.setenv("CEPHFS_EXT_CONFIG", str(tmp_path / "gateway.toml"))
        assert json.loads(call("config", "show", "--json").stdout)["trash"]["shards"] == 8

    def test_check(self, tmp_path: Path) -> None:
        file = tmp_path / "gateway.toml"
        file.write_text("[trash]\nshards = 8\n")
        done = call("config", "check", str(file))
        assert (done.returncode, done.stdout) == (ExitCode.OK, f"{file}: ok\n")

    def test_check_refuses(self, tmp_path: Path) -> None:
        file = tmp_path / "gateway.toml"
        file.write_text("[trash]\nshard = 8\n")
        done = call("config", "check", str(file))
        assert done.returncode == ExitCode.USAGE
        assert done.stderr == (
            f"cephfs-ext: error: {file}: unknown key trash.shard; did you mean shards?\n"
        )

    def test_check_of_nothing(self, tmp_path: Path) -> None:
        assert call("config", "check", str(tmp_path / "none")).returncode == ExitCode.NOT_FOUND
