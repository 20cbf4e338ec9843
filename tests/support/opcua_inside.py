"""An OPC UA server of the bridge in the test's own process, without a station: the test says what the handshake shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from asyncua import Client, ua
from support.bridge_process import free_port
from support.opcua import PREFIX

from anosegd.bridge.config import OpcUaConfig
from anosegd.bridge.events import RecipeRequest
from anosegd.bridge.handshake import Handshake, Heartbeat, Settings
from anosegd.bridge.opcua.server import OpcUaServer
from anosegd.bridge.tags import Outputs, Result

RECIPES = ("lid", "box")


class Inside:
    """The server and a handshake whose station has two recipes.

    Attributes:
        sent: What the handshake has asked of the station.
        answers: Whether the station answers requests for recipes, after a tenth of a second.
        failed: What has ended a task of the bridge.
    """

    def __init__(self, folder: Path) -> None:
        self.url = f"opc.tcp://127.0.0.1:{free_port()}"
        config = OpcUaConfig(listen=self.url.removeprefix("opc.tcp://"), anonymous=True)
        self.server = OpcUaServer(config, folder, "eye")
        self.model = Handshake(Settings(triggered=True, window_s=5.0, capacity=8), time.monotonic())
        self.sent: list[Any] = []
        self.answers = True
        self.failed: list[BaseException | None] = []
        self._shown: Outputs | None = None

    # ---- the handle of the server

    def write(self, controls: Any) -> None:
        self.model.write(time.monotonic(), controls)
        self._go_on()

    def plc_lost(self) -> None:
        self.model.plc_lost(time.monotonic())
        self._go_on()

    def refresh(self) -> None:
        self.model.tick(time.monotonic())
        self._go_on()

    # ---- the station

    def hear(self) -> None:
        """Let a heartbeat of the station arrive."""
        beat = Heartbeat(
            run_id="r",
            at_s=time.time(),
            state="ContinuousExecution",
            last_seq=0,
            recipe="lid",
            has_recipes=True,
            settings=1,
            camera_waits=True,
        )
        self.model.heartbeat(time.monotonic(), beat)
        self._go_on()

    def show_result(self, number: int, **more: Any) -> None:
        """Show a result, as `show` does."""
        result = Result(outcome="PASS", part_id=f"part {number}", recipe="lid")
        self.show(replace(Outputs(), station_state="Ready", result_valid=True, result_number=number, result=result, **more))

    def show(self, outputs: Outputs) -> None:
        """Show outputs, whatever the handshake says, until others are shown."""
        self._shown = outputs
        self.server.show(outputs)

    def _go_on(self) -> None:
        for request in self.model.take_requests():
            self.sent.append(request)
            if isinstance(request, RecipeRequest) and self.answers:
                asyncio.get_running_loop().call_later(0.1, self._answer, request)
        self.server.show(self._shown or self.model.outputs)

    def _answer(self, request: RecipeRequest) -> None:
        self.model.recipe_answered(time.monotonic(), request.number, accepted=request.recipe in RECIPES)
        self._go_on()


@asynccontextmanager
async def inside(folder: Path) -> AsyncIterator[Inside]:
    """Serve while the test runs; nothing may end a task of the bridge."""
    made = Inside(folder)
    made.server.show(made.model.outputs)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: made.failed.append(context.get("exception")))
    await made.server.start(made)

    async def beat() -> None:
        while True:
            made.hear()
            await asyncio.sleep(0.5)

    beats = asyncio.create_task(beat())
    try:
        while not made.model.outputs.online:
            await asyncio.sleep(0.05)
        yield made
    finally:
        beats.cancel()
        await made.server.stop()
    assert made.failed == []


async def watch_events(client: Client, subscription: Any, wanted: Any) -> int:
    """Ask for the events of `VisionSystem` with a filter; return the id of the monitored item."""
    item = ua.MonitoredItemCreateRequest(
        ua.ReadValueId(NodeId=ua.NodeId("VisionSystem", 2), AttributeId=ua.AttributeIds.EventNotifier),
        ua.MonitoringMode.Reporting,
        ua.MonitoringParameters(ClientHandle=5, SamplingInterval=10, Filter=wanted, QueueSize=10_000),
    )
    request = ua.CreateMonitoredItemsParameters(subscription.subscription_id, ua.TimestampsToReturn.Both, [item])
    (result,) = await client.uaclient.create_monitored_items(request)
    assert result.RevisedQueueSize == 10
    result.StatusCode.check()
    return int(result.MonitoredItemId)


async def put(client: Client, **values: bool | str) -> None:
    """Write inputs in one request."""
    await client.write_values([client.get_node(f"{PREFIX}Inputs.{name}") for name in values], list(values.values()))


async def read(client: Client, name: str) -> Any:
    """Read a variable: `Outputs.online`."""
    return await client.get_node(PREFIX + name).read_value()
