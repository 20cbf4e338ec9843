"""Decides who may listen to the station and who may command it, by keys (CURVE, ZeroMQ's encryption).

`files` reads and writes the files of keys, `keyring` knows which keys are authorised now, and `guard` is the thread that
admits and closes connections. Clients read their own key file in `client/key.py`.
"""

from anosegd.keys.config import CLIENT_CREDENTIAL, CREDENTIALS, KeysConfig
from anosegd.keys.files import keep_out_of_core_dumps
from anosegd.keys.guard import Guard, Peer, new_socket
from anosegd.keys.keyring import Keyring, keyring_of

__all__ = [
    "CLIENT_CREDENTIAL",
    "CREDENTIALS",
    "Guard",
    "Keyring",
    "KeysConfig",
    "Peer",
    "keep_out_of_core_dumps",
    "keyring_of",
    "new_socket",
]
