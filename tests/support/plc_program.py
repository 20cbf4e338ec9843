"""The program of a PLC for every kind of bridge, until so many parts have results: `plc_program.py KIND SERVER PORT PARTS`.

It prints each part's id and outcome, or `none` for a part that the PLC rejects without a result. SERVER is the folder of
cpppo, or the C++ library of Snap7; the other kinds need none.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.logix_plc import LogixPlc
from support.opcua_plc import OpcUaPlc
from support.plc import FAIL, PASS, Plc, PolledPlc, Seen
from support.s7_plc import S7Plc

LIMIT_S = 120.0
PAUSE_S = 0.01


def main(kind: str, server: Path, port: int, parts: int) -> int:
    """Run the program. Returns 1 if it takes too long."""
    judged = 0

    def act(part_id: str, action: str, seen: Seen | None) -> None:
        nonlocal judged
        judged += seen is not None
        outcome = (
            "none" if seen is None else "PASS" if seen.bit(PASS) else "FAIL" if seen.bit(FAIL) else f"UNKNOWN {seen.reason}"
        )
        print(part_id, outcome, flush=True)

    polled: dict[str, type[S7Plc] | type[LogixPlc]] = {"s7": S7Plc, "logix": LogixPlc}
    memory = polled[kind](server, port) if kind in polled else None
    plc = PolledPlc(memory, act, gate_s=15) if memory else (OpcUaPlc if kind == "opcua" else Plc)(port, act, gate_s=15)
    give_up_at = time.monotonic() + LIMIT_S
    offered = 0
    while judged < parts and time.monotonic() < give_up_at:
        if plc.free and plc.open_parts == 0:
            offered += 1
            plc.offer(f"part-{offered}")
        plc.cycle()
        time.sleep(PAUSE_S)
    if memory is not None:
        memory.kill()
    return int(judged < parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
