"""Sends 100,000 malformed messages to an OPC UA bridge, beside slow connections and 100 clients: a good client is served.

python tests/stress/opcua_rubbish.py --frames 100000

The bridge lets in clients without a certificate, so that the messages reach all of it: most come in a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from pathlib import Path

from asyncua import Client, ua

sys.path.insert(0, str(Path(__file__).parents[1]))
from stress.rubbish import flood_command, resident_mb
from support.bridge_process import BridgeProcess, free_port
from support.opcua_wire import NONE, Wire, close

SESSIONS, IDLE, SLOW = 20, 80, 20
GROWTH_MB = 60
SETTLED_MB = 5
"""Memory may grow by this in the second half: what each connection leaves behind would show."""
WAIT_S = 0.005
MESSAGES = 40
"""Of one connection."""
LINES, LINES_A_SECOND = 100, 2
"""The log may have this many lines, and so many for each second: what anybody may send must not fill a disk. Bad clients cause
two events, and each is logged once a second at most."""
SECURE = "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256"
HEARTBEAT = ua.NodeId("Outputs.heartbeat", 2)


def requests() -> list[object]:
    """Return valid requests of most services."""
    read = ua.ReadRequest()
    read.Parameters.NodesToRead = [ua.ReadValueId(NodeId=HEARTBEAT, AttributeId=ua.AttributeIds.Value)]
    write = ua.WriteRequest()
    value = ua.DataValue(ua.Variant([[1, 2], [3, 4]], ua.VariantType.Int32))
    write.Parameters.NodesToWrite = [ua.WriteValue(ua.NodeId("Inputs.enable", 2), ua.AttributeIds.Value, Value=value)]
    browse = ua.BrowseRequest()
    browse.Parameters.NodesToBrowse = [ua.BrowseDescription(NodeId=ua.NodeId(85))]
    translate = ua.TranslateBrowsePathsToNodeIdsRequest()
    path = ua.RelativePath([ua.RelativePathElement(TargetName=ua.QualifiedName("x", 0))])
    translate.Parameters.BrowsePaths = [ua.BrowsePath(ua.NodeId(85), path)]
    call = ua.CallRequest()
    method = ua.NodeId("VisionSystem.ResultManagement.GetResultById", 2)
    call.Parameters.MethodsToCall = [ua.CallMethodRequest(ua.NodeId(85), method, [ua.Variant(1)])]
    subscribe = ua.CreateSubscriptionRequest()
    subscribe.Parameters.RequestedPublishingInterval = 0.0
    items = ua.CreateMonitoredItemsRequest()
    monitored = ua.MonitoringParameters(Filter=ua.DataChangeFilter(), QueueSize=1000)
    items.Parameters.ItemsToCreate = [
        ua.MonitoredItemCreateRequest(read.Parameters.NodesToRead[0], RequestedParameters=monitored)
    ]
    return [read, write, browse, translate, call, subscribe, items, events(), ua.PublishRequest(), ua.CloseSessionRequest()]


def events() -> ua.CreateMonitoredItemsRequest:
    """Return a valid request for events, with a where clause of two elements."""
    one = ua.LiteralOperand(Value=ua.Variant(1))
    elements = [
        ua.ContentFilterElement(ua.FilterOperator.And, [ua.ElementOperand(Index=1), ua.ElementOperand(Index=1)]),
        ua.ContentFilterElement(ua.FilterOperator.Equals, [one, one]),
    ]
    names = [[ua.QualifiedName("Message")], [ua.QualifiedName("ResultId", 3)]]
    selected = [ua.SimpleAttributeOperand(ua.NodeId(2041), path, ua.AttributeIds.Value) for path in names]
    wanted = ua.EventFilter(SelectClauses=selected, WhereClause=ua.ContentFilter(Elements=elements))
    request = ua.CreateMonitoredItemsRequest()
    request.Parameters.ItemsToCreate = [
        ua.MonitoredItemCreateRequest(
            ua.ReadValueId(NodeId=ua.NodeId("VisionSystem", 2), AttributeId=ua.AttributeIds.EventNotifier),
            RequestedParameters=ua.MonitoringParameters(Filter=wanted, QueueSize=1000),
        )
    ]
    return request


def spoilt(chance: random.Random, body: bytes) -> bytes:
    """Return a request with some of its bytes changed, lost or inserted."""
    data = bytearray(body)
    for _ in range(chance.randrange(1, 4)):
        if len(data) <= 4:
            break
        at = chance.randrange(4, len(data))
        kind = chance.randrange(4)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.randrange(1, 20))
        else:  # lengths, and arrays of nothing
            data[at : at + 5] = chance.choice((b"\xff\xff\xff\x7f", b"\x80\xff\xff\xff\x7f", b"\xfe\xff\xff\xff"))
    return bytes(data)


async def send(wire: Wire, chance: random.Random, valid: list[object]) -> None:
    """Send one malformed message."""
    kind = chance.randrange(20)
    if kind == 0:
        wire.writer.write(chance.randbytes(chance.randrange(1, 300)))
    elif kind == 1:
        wire.raw(chance.choice((b"HEL", b"OPN", b"CLO", b"ACK", b"ERR")), chance.randbytes(chance.randrange(0, 100)))
    elif kind == 2:
        wire.raw(b"MSG", b"\0" * 16, size=chance.choice((0, 7, 11, 65_536, 0x7FFF_FFFF, 0xFFFF_FFFF)))
    elif kind == 3:
        wire.raw(b"OPN", wire.opening(chance.choice((NONE, SECURE, "x")), chance.randbytes(64), chance.randbytes(40)))
    elif kind == 4:  # parts of a message that never ends
        wire.message(chance.randbytes(chance.choice((10, 60_000))), b"C")
    else:
        wire.message(spoilt(chance, wire.binary(chance.choice(valid))))
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(wire.writer.drain(), 5)
        if not await asyncio.wait_for(wire.reader.read(65536), WAIT_S):
            raise ConnectionError("closed")


async def work(frames: int, seed: int, port: int, bridge: BridgeProcess) -> list[str]:
    """Run the test beside a bridge that runs. Returns what went wrong."""
    chance, valid, wrong = random.Random(seed), requests(), []
    url = f"opc.tcp://127.0.0.1:{port}"
    crowd = [await Wire.connect(port, session=n < SESSIONS) for n in range(SESSIONS + IDLE)]
    slow = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(SLOW)]
    async with Client(url, timeout=30, watchdog_intervall=30) as good:  # its own watchdog gives up after a second
        beat = good.get_node(HEARTBEAT)
        await beat.read_value()
        before = half = resident_mb(bridge.process.pid)
        slowest, begin, connections, wire = 0.0, time.monotonic(), 0, None
        for n in range(frames):
            try:
                if wire is None or n % MESSAGES == 0:
                    if wire is not None:
                        await wire.close()
                    wire = await Wire.connect(port, session=chance.random() < 0.9)
                    connections += 1
                await send(wire, chance, valid)
            except (OSError, asyncio.IncompleteReadError):
                if wire is not None:
                    await wire.close()
                wire = None
            except ua.UaError as error:
                wrong.append(f"after {n} messages: no session: {error!r}")
                break
            if n % 50 == 0:
                asked = time.monotonic()
                try:
                    await beat.read_value()
                except (OSError, ua.UaError, asyncio.TimeoutError) as error:
                    wrong.append(f"after {n} messages: a good client is not served: {error!r}; {bridge.log[-1000:]}")
                    break
                slowest = max(slowest, time.monotonic() - asked)
            if n == frames // 2:
                half = resident_mb(bridge.process.pid)
            if n and n % 10_000 == 0:
                print(f"{n} messages: {resident_mb(bridge.process.pid):.0f} MB, slowest {slowest * 1000:.0f} ms", flush=True)
            if n % 200 == 0:
                for writer in slow:  # a byte at a time, of a message that never ends; the bridge closes it
                    if not writer.is_closing():
                        writer.write(b"H")
        end = resident_mb(bridge.process.pid)
    seconds, lines = time.monotonic() - begin, len(bridge.log.splitlines())
    print(f"{n + 1} messages over {connections} connections, {seconds:.0f} s")
    print(f"beside {len(crowd)} clients and {SLOW} slow ones, {lines} log lines")
    print(f"memory: {before:.1f} MB, after half of the messages {half:.1f} MB, at the end {end:.1f} MB")
    print(f"{sum(writer.is_closing() for writer in slow)} slow connections were closed")
    print(f"slowest answer to a good client: {slowest * 1000:.0f} ms")
    for writer in (*(connection.writer for connection in crowd), *slow, *([] if wire is None else [wire.writer])):
        await close(writer)
    if end - before > GROWTH_MB:
        wrong.append(f"memory grew by {end - before:.0f} MB")
    if end - half > SETTLED_MB:
        wrong.append(f"memory still grew by {end - half:.1f} MB in the second half")
    if lines > LINES + LINES_A_SECOND * seconds or "Traceback" in bridge.log:
        wrong.append(f"the log has {lines} lines: {bridge.log[-1000:]}")
    return wrong


def flood(frames: int, seed: int = 1) -> list[str]:
    """Run the test. Returns what went wrong."""
    with tempfile.TemporaryDirectory(prefix="anoseg-opcua-") as name:
        port = free_port()
        config = Path(name) / "bridge.yaml"
        config.write_text(
            f"camera: top\nstation: {{publish: 'ipc://{name}/none', control: 'ipc://{name}/no'}}\n"
            f"opcua: {{listen: '127.0.0.1:{port}', anonymous: true}}\n"
        )
        bridge = BridgeProcess(config, kind="opcua")
        try:
            bridge.wait_for("bridge.listening")
            wrong = asyncio.run(work(frames, seed, port, bridge))
            if bridge.process.poll() is not None:
                wrong.append(f"the bridge has ended: {bridge.log[-1000:]}")
            elif bridge.terminate() != 0:
                wrong.append("the bridge does not end in order")
        finally:
            bridge.close()
    return wrong


if __name__ == "__main__":
    raise SystemExit(flood_command(__doc__, flood))
