"""Runs `anosegd view`: serves the operator's screen to browsers on this machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anosegd import logs
from anosegd.commands import export
from anosegd.commands.connection import endpoints_of
from anosegd.config import load_config


def main(options: argparse.Namespace) -> int:
    """Serve the screen until stopped.

    Raises:
        ConfigError: The configuration or the address is refused, or the web server is not installed.
        PublishError: The address is in use.
    """
    try:
        from anosegd.view.past_parts import CsvForm
        from anosegd.view.server import ViewSettings, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise ConfigError(
            f"anosegd view needs the package {error.name}, which is not installed",
            hint="pip install -c constraints.txt '.[view]', or make install EXTRAS=view",
        ) from error
    logs.set_up(journal=os.environ.get("JOURNAL_STREAM"))
    endpoints = endpoints_of(options)
    kept = load_config(options.config).evidence if options.config is not None else None
    settings = ViewSettings(
        publish=endpoints.publish,
        control=endpoints.control,
        listen=options.listen,
        stale_after_s=options.stale_after,
        evidence=None if kept is None else Path(kept.folder),
        shifts=options.shifts,
        csv_form=CsvForm(export.HEAD, export.row),
        users=options.users,
    )
    return serve(settings)
