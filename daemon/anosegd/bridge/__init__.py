"""Connects a PLC to a station: `anosegd bridge KIND CONFIG`, a process of its own and a client like any other.

`handshake.py` is the model of what a PLC reads and writes, the same for every kind of bridge. A kind maps it to a protocol.
"""
