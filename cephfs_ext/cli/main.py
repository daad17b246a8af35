"""The command line: `cephfs-ext`, `trash-restore` and `mount.fuse.cephfs-ext`.

Commands are loaded when they are called, so that `--help` and completion are fast. Errors are one
line on standard error, and an exit code that docs/operations.md explains.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from cephfs_ext.cli.output import printable
from cephfs_ext.core.errors import ExitCode, UserError

_COMMANDS = {
    "mount": ("cephfs_ext.cli.mount", "Mount a gateway."),
    "umount": ("cephfs_ext.cli.mount", "Unmount a gateway."),
    "status": ("cephfs_ext.cli.status", "Say what runs."),
    "config": ("cephfs_ext.cli.config", "Check and show the configuration."),
    "audit": ("cephfs_ext.cli.audit", "Say who deleted what, and what has become of it."),
    "trash": ("cephfs_ext.cli.trash", "List, restore and purge what was deleted."),
    "jobs": ("cephfs_ext.cli.jobs", "Follow and steer what is removed in the background."),
    "worker": ("cephfs_ext.cli.worker", "Remove trees in the background, without a mount."),
    "rm": ("cephfs_ext.cli.rm", "Delete trees of any size, each by one rename."),
    "completion": ("cephfs_ext.cli.completion", "Print the script for tab completion."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        del ctx
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None if there is none of that name."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, help_text = _COMMANDS[cmd_name]
        if "--help" in sys.argv[1:2]:
            return click.Command(cmd_name, short_help=help_text)
        command: click.Command = getattr(importlib.import_module(module), cmd_name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cephfs-ext")
def cli() -> None:
    """A file gateway over CephFS or any directory, with a trashbin.

    Exit codes: 0 ok, 1 other, 2 usage, 3 not found, 4 conflict, 5 temporary, 6 partly done,
    7 denied.
    """


def run(command: click.Command, arguments: Sequence[str] | None, name: str) -> int:
    """Carry out a command line and return its exit code; errors are printed."""
    _leave_dead_directory()
    try:
        result = command.main(arguments, prog_name=name, standalone_mode=False)
    except UserError as exc:
        click.echo(printable(f"{name}: error: {exc}"), err=True)
        return exc.exit_code
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.UsageError as exc:
        exc.show()
        return ExitCode.USAGE
    except click.ClickException as exc:
        exc.show()
        return ExitCode.OTHER
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"{name}: interrupted", err=True)
        return ExitCode.OTHER
    return result if isinstance(result, int) else ExitCode.OK


def _leave_dead_directory() -> None:
    """Work from `/` where the current directory lies on a mount that is gone."""
    try:
        os.getcwd()
    except OSError:
        os.chdir("/")


def main() -> None:
    """Run `cephfs-ext`."""
    sys.exit(run(cli, None, "cephfs-ext"))


def trash_restore() -> None:
    """Run `trash-restore`, which is `cephfs-ext trash restore`."""
    sys.exit(run(cli, ["trash", "restore", *sys.argv[1:]], "trash-restore"))


def mount_helper() -> None:
    """Run `mount.fuse.cephfs-ext`."""
    from cephfs_ext.cli.mount_helper import mount_helper as helper

    sys.exit(run(helper, None, "mount.fuse.cephfs-ext"))
