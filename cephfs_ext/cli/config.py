"""`cephfs-ext config check` and `cephfs-ext config show`."""

from __future__ import annotations

import dataclasses
import json

import click

from cephfs_ext.cli.options import PATH, config_options, json_option
from cephfs_ext.core.config import Loaded, load_config


@click.group()
def config() -> None:
    """Check and show the configuration."""


@config.command()
@click.argument("file", type=PATH)
def check(file: str) -> None:
    """Check FILE: exit code 0, or 2 and what is wrong with it."""
    load_config(file, environment={})
    click.echo(f"{file}: ok")


@config.command()
@json_option
@config_options
def show(as_json: bool, loaded: Loaded) -> None:
    """Show every setting in force, and where it comes from."""
    sections = dataclasses.asdict(loaded.config)
    if as_json:
        document = {"schema_version": 1, **sections, "origins": dict(loaded.origins)}
        click.echo(json.dumps(document, indent=2))
        return
    for section, values in sections.items():
        click.echo(f"[{section}]")
        for key, value in values.items():
            origin = loaded.origins.get(f"{section}.{key}", "default")
            click.echo(f"{key} = {json.dumps(value):<32} # {origin}")
