"""Runs `anosegd view`: serves the operator's screen to browsers."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anosegd import logs
from anosegd.commands import export
from anosegd.commands.connection import endpoints_of
from anosegd.config import load_config
from anosegd.recipe import recipes_of
from anosegd.view.address import Address
from anosegd.view.users import certificate_beside, load_users, users_beside

NICE = 5
"""The inspection comes first. Even if it takes all processors, the screen gets about a quarter of one."""


@contextlib.contextmanager
def web_server(command: str) -> Iterator[None]:
    """Say what to install if an import in this context lacks the web server.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "cryptography"):
            raise
        raise ConfigError(
            f"{command} needs the package {error.name}, which is not installed",
            hint="pip install -c constraints.txt --editable '.[view]', or make install EXTRAS=view",
        ) from error


def main(options: argparse.Namespace) -> int:
    """Serve the screen until stopped.

    Raises:
        ConfigError: The configuration, address, users or certificate are refused, or the web server is not installed.
        PublishError: The address is in use.
    """
    with web_server("anosegd view"):
        from anosegd.view.past_parts import CsvForm
        from anosegd.view.server import ViewSettings, serve
        from anosegd.view.tls import load_certificate, own_certificate
    logs.set_up(journal=os.environ.get("JOURNAL_STREAM"))
    endpoints = endpoints_of(options)
    config = load_config(options.config) if options.config is not None else None
    kept = None if config is None else config.evidence
    listen: Address = options.listen
    users, certificate = options.users, None
    if not listen.is_loopback and users is None:
        if options.config is None:
            raise ConfigError(f"{listen.host}:{listen.port}: who may see the screen?", hint="give CONFIG or --users FILE")
        users = users_beside(options.config)
    if options.certificate is not None:
        certificate = load_certificate(options.certificate, options.certificate_key)
    elif options.certificate_key is not None:
        raise ConfigError(
            f"--certificate-key {options.certificate_key} is given without its certificate", hint="add --certificate FILE"
        )
    elif not listen.is_loopback:
        load_users(users)  # before a certificate is made for nobody
        certificate = own_certificate(certificate_beside(users), {*options.name, *(() if listen.is_every else (listen.host,))})
    settings = ViewSettings(
        publish=endpoints.publish,
        control=endpoints.control,
        key=endpoints.key,
        listen=options.listen,
        stale_after_s=options.stale_after,
        evidence=None if kept is None else Path(kept.folder),
        shifts=options.shifts,
        csv_form=CsvForm(export.HEAD, export.row),
        users=users,
        certificate=certificate,
        bundles={} if config is None else {name: Path(recipe.bundle) for name, recipe in recipes_of(config).items()},
        names=tuple(options.name),
    )
    with contextlib.suppress(OSError):
        os.nice(max(0, NICE - os.nice(0)))
    return serve(settings)
