"""The rig of kills, with fewer kills; and what a bridge does about an error of its own."""

import asyncio
from pathlib import Path

import pytest
from stress.plc_kills import run
from support.logix_plc import server_of
from support.s7_plc import library_of

from anoseg_engines.errors import PublishError
from anosegd.bridge.config import Target
from anosegd.bridge.handshake import Settings
from anosegd.bridge.kind import Handle
from anosegd.bridge.service import Bridge
from anosegd.bridge.tags import Outputs
from anosegd.systemd import Notifier


@pytest.mark.long
@pytest.mark.parametrize("kind", ["modbus", "opcua", "s7", "logix"])
def test_kills_of_all_three_lead_to_no_wrong_act(tmp_path_factory: pytest.TempPathFactory, kind: str) -> None:
    """Station, bridge and PLC are killed once each, while parts pass."""
    if kind == "s7":
        library_of(tmp_path_factory)  # skips where it cannot be fetched
    elif kind == "logix":
        server_of(tmp_path_factory)
    assert run(tmp_path_factory.mktemp("k"), 40, 1, seed=3, kind=kind) == []


class Failing:
    """A kind whose code has a fault."""

    place = "nowhere"
    listens = False

    async def start(self, handle: Handle) -> None:
        pass

    def show(self, outputs: Outputs) -> None:
        if outputs.heartbeat:
            raise ZeroDivisionError("a fault")

    async def stop(self) -> None:
        pass


def test_an_error_of_its_own_ends_the_bridge(tmp_path: Path) -> None:
    """It does not go on with a handshake that may be wrong: exit code 1, and systemd starts another."""
    target = Target(camera="a", publish=f"ipc://{tmp_path}/p", control=None, key=None, window_s=1.0)
    settings = Settings(triggered=False, window_s=1.0, capacity=1)

    async def serve() -> int:
        return await Bridge(Failing(), target, settings, Notifier()).run()

    with pytest.raises(PublishError, match="the bridge ended: a fault"):
        asyncio.run(serve())
