"""`cephfs-ext completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from cephfs_ext.core.errors import ExitCode, UserError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL; source it in the shell's start file."""
    kind = get_completion_class(shell)
    if kind is None:
        raise UserError(f"there is no completion for {shell}", ExitCode.USAGE)
    root = ctx.find_root().command
    click.echo(kind(root, {}, "cephfs-ext", "_CEPHFS_EXT_COMPLETE").source())
