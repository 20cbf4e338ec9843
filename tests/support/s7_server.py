"""The C++ Snap7 server with one data block, until its standard input ends: `s7_server.py LIBRARY PORT DB HEX`."""

import ctypes
import sys

LOCAL_PORT = 1
DB = 5


def main() -> int:
    library, port, db, data = sys.argv[1:]
    lib = ctypes.CDLL(library)
    lib.Srv_Create.restype = ctypes.c_void_p
    server = ctypes.c_void_p(lib.Srv_Create())
    block = (ctypes.c_ubyte * (len(data) // 2)).from_buffer(bytearray.fromhex(data))
    assert lib.Srv_SetParam(server, LOCAL_PORT, ctypes.byref(ctypes.c_uint16(int(port)))) == 0
    assert lib.Srv_RegisterArea(server, DB, ctypes.c_uint16(int(db)), ctypes.byref(block), len(block)) == 0
    assert lib.Srv_StartTo(server, b"127.0.0.1") == 0
    print("ready", flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
