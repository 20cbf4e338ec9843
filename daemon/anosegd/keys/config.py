"""Defines the settings of the station's keys. Pure data."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""The variable in which systemd names the folder of a unit's credentials."""
CREDENTIAL = "station.key"
"""Name of the station's key among systemd's credentials."""
CLIENT_CREDENTIAL = "client.key"
"""Name of a client's key there, such as the screen's."""


class KeysConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says where the station's keys are. With keys, every connection is encrypted and every client must be authorised.

    Attributes:
        clients: Folder with a file for each authorised client. It is read again once a second.
        station: The station's own key file; None takes the credential `station.key` from systemd.
    """

    clients: Annotated[str, Meta(min_length=1)]
    station: Annotated[str, Meta(min_length=1)] | None = None
