"""The kind `s7`: a client of a Siemens PLC, in which it reads and writes a data block. `block.py` is the map,
`memory.py` the client.
"""

from anosegd.bridge.s7.block import Block

__all__ = ["Block"]
