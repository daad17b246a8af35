"""`cephfs-ext worker`: removes trees in the background, without a mount."""

from __future__ import annotations

import click

from cephfs_ext.cli.options import config_options
from cephfs_ext.core.config import Loaded, parse_source


@click.command()
@click.argument("source")
@click.option("--until-idle", is_flag=True, help="End when there is nothing left to remove.")
@config_options
def worker(source: str, until_idle: bool, loaded: Loaded) -> None:
    """Remove what gateways over SOURCE have claimed, until SIGTERM ends it.

    SOURCE is posix:DIR or ceph:/SUBDIR, as for `mount`. Any number of workers, on any number of
    nodes, share the work; one that dies is replaced by the others.
    """
    from cephfs_ext.daemon.worker import run_worker

    run_worker(loaded.config, parse_source(source), until_idle=until_idle)
