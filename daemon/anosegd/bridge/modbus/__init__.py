"""The kind `modbus`: a Modbus TCP server that a PLC polls. `registers.py` is the map, `server.py` the server."""

from anosegd.bridge.modbus.registers import RegisterMap

__all__ = ["RegisterMap"]
