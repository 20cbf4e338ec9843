"""What clients leave behind in the OPC UA server, and how much of what they send it keeps."""

from __future__ import annotations

import asyncio
import gc
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import extensionobject_from_binary, extensionobject_to_binary
from support.opcua_inside import Inside, inside, watch_events
from support.opcua_wire import Wire

BEAT = ua.NodeId("Outputs.heartbeat", 2)
ROUNDS = 10
"""Connections whose traces are counted: one object of a kind that each of them leaves makes a difference of as many."""


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 90))


def port(bridge: Inside) -> int:
    return int(bridge.url.rsplit(":", 1)[1])


@asynccontextmanager
async def wired(bridge: Inside) -> AsyncIterator[Wire]:
    """Return a client with a session and a subscription."""
    wire = await Wire.connect(port(bridge))
    try:
        yield wire
    finally:
        await wire.close()


def watching(count: int = 1, **more: Any) -> ua.CreateMonitoredItemsRequest:
    """Return a request to watch the heartbeat, several times."""
    items = ua.CreateMonitoredItemsRequest()
    wanted = ua.ReadValueId(NodeId=BEAT, AttributeId=ua.AttributeIds.Value, **more)
    item = ua.MonitoredItemCreateRequest(wanted, ua.MonitoringMode.Reporting, ua.MonitoringParameters(QueueSize=1))
    items.Parameters.ItemsToCreate = [item] * count
    return items


async def watch(wire: Wire, count: int = 1, **more: Any) -> list[int]:
    """Watch the heartbeat; return the ids of the items."""
    response = await wire.ask(watching(count, **more), ua.CreateMonitoredItemsResponse)
    return [result.MonitoredItemId for result in response.Results]


def of_subscription(bridge: Inside, wire: Wire) -> Any:
    return bridge.server.iserver.subscription_service.subscriptions[wire.subscription]


# ---- connections that have ended


async def channel(wire: Wire) -> None:
    await wire.open_channel()


async def session(wire: Wire) -> None:
    await channel(wire)
    await wire.create_session(1000)


async def activated(wire: Wire) -> None:
    await session(wire)
    await wire.activate()


async def subscribed(wire: Wire) -> None:
    await activated(wire)
    await wire.subscribe()


async def watched(wire: Wire) -> None:
    await subscribed(wire)
    await watch(wire)
    wire.message(wire.binary(ua.PublishRequest()))
    await wire.writer.drain()


async def closed(wire: Wire) -> None:
    await watched(wire)
    wire.message(wire.binary(ua.CloseSessionRequest()))


async def spoilt(wire: Wire) -> None:
    await watched(wire)
    wire.message(wire.binary(watching())[:-7])
    wire.raw(b"MSG", b"\0" * 16, size=7)
    await wire.writer.drain()


KINDS = (channel, session, activated, subscribed, watched, closed, spoilt)
LOOPS = {"_session_watchdog_loop", "_timeout_loop", "_subscription_loop", "_serve", "_close"}


def names_of_tasks() -> list[str]:
    return [getattr(task.get_coro(), "__name__", "") for task in asyncio.all_tasks()]


async def connect(bridge: Inside, *kinds: Callable[[Wire], Awaitable[None]]) -> Counter[str]:
    """Connect ten times for each kind, wait until the server has noticed the ends, and count what there is."""
    for kind in kinds:
        for _ in range(ROUNDS):
            wire = Wire(*await asyncio.open_connection("127.0.0.1", port(bridge)))
            await kind(wire)
            await wire.close()
            del wire
    while bridge.server._peers or bridge.server.iserver._external_sessions or LOOPS.intersection(names_of_tasks()):
        await asyncio.sleep(0.05)
    gc.collect()
    owners = ("asyncua", "asyncio", "_asyncio", "logging", "anosegd")
    kept = (thing for thing in gc.get_objects() if not isinstance(thing, asyncio.TimerHandle))  # asyncio keeps them until due
    kinds_of_objects = (type(thing) for thing in kept)
    return Counter(f"{kind.__module__}.{kind.__name__}" for kind in kinds_of_objects if kind.__module__.split(".")[0] in owners)


def test_a_connection_that_has_ended_leaves_nothing(tmp_path: Path) -> None:
    """Wherever its client stops: no object of asyncua, asyncio, logging or the bridge stays for it."""

    async def work() -> None:
        async with inside(tmp_path) as bridge:
            before = await connect(bridge, *KINDS)
            for kind in KINDS:
                after = await connect(bridge, kind)
                left = {name: count for name, count in (after - before).items() if count >= ROUNDS}
                assert left == {}, kind.__name__
                before = after

    run(work())


# ---- connections that stay


def test_another_session_on_the_same_connection_replaces_the_first(tmp_path: Path) -> None:
    """asyncua would watch each of them until the connection ends."""

    async def work() -> None:
        async with inside(tmp_path) as bridge:
            wire = Wire(*await asyncio.open_connection("127.0.0.1", port(bridge)))
            await wire.open_channel()
            for _ in range(20):
                await wire.create_session()
            await wire.activate()
            assert names_of_tasks().count("_session_watchdog_loop") == len(bridge.server.iserver._external_sessions) == 1
            await wire.close()

    run(work())


@pytest.mark.parametrize("wanted", [math.nan, math.inf, -1.0])
def test_a_session_ends_whatever_timeout_its_client_has_asked_for(tmp_path: Path, wanted: float) -> None:
    """A timeout that is not a number would keep the session for ever, and the event loop busy."""

    async def work() -> None:
        async with inside(tmp_path) as bridge:
            wire = Wire(*await asyncio.open_connection("127.0.0.1", port(bridge)))
            await wire.open_channel()
            assert 1000 <= await wire.create_session(wanted) <= 30_000
            (made,) = bridge.server.iserver._external_sessions.values()
            assert 1 <= made.session_timeout <= 30
            await wire.close()

    run(work())


def test_values_of_items_that_are_watched_no_longer_are_forgotten(tmp_path: Path) -> None:
    """A client that watches and stops, again and again, and never asks for notifications."""

    async def work() -> None:
        async with inside(tmp_path) as bridge, wired(bridge) as wire:
            subscription = of_subscription(bridge, wire)
            for _ in range(5):
                items = await watch(wire, 100)
                assert len(subscription._triggered_datachanges) == 100
                forget = ua.DeleteMonitoredItemsRequest()
                forget.Parameters.SubscriptionId, forget.Parameters.MonitoredItemIds = wire.subscription, items
                response = await wire.ask(forget, ua.DeleteMonitoredItemsResponse)
                assert all(code.is_good() for code in response.Results)
            assert subscription._triggered_datachanges == {}

    run(work())


def test_of_a_watched_node_only_its_id_is_kept(tmp_path: Path) -> None:
    """asyncua uses neither a range of indexes nor an encoding; either may be a text of any length."""

    async def work() -> None:
        async with inside(tmp_path) as bridge, wired(bridge) as wire:
            await watch(wire, IndexRange="1" * 5000, DataEncoding=ua.QualifiedName("x" * 5000))
            (item,) = of_subscription(bridge, wire).monitored_item_srv._monitored_items.values()
            assert item.read_value_id == ua.ReadValueId(NodeId=BEAT, AttributeId=ua.AttributeIds.Value)

    run(work())


def test_few_publish_requests_wait_and_each_is_small(tmp_path: Path) -> None:
    """At most 15 on a connection, however many subscriptions others have, without texts in their headers."""

    async def work() -> None:
        async with inside(tmp_path) as bridge, wired(bridge) as other, wired(bridge) as wire:
            for _ in range(4):
                await other.subscribe()
                await wire.subscribe()
            wordy = ua.PublishRequest()
            wordy.RequestHeader.AuditEntryId, wordy.RequestHeader.RequestHandle = "x" * 5000, 7
            for _ in range(60):
                wire.message(wire.binary(wordy))
            for _ in range(60 - 15):
                await wire.answer()
            (waiting,) = [peer.processor._publish_requests for peer in bridge.server._peers if peer.processor._publish_requests]
            assert len(waiting) <= 15
            assert {(request.requesthdr.RequestHandle, request.requesthdr.AuditEntryId) for request in waiting} == {(7, None)}

    run(work())


def test_a_publish_request_with_many_acknowledgements_is_refused(tmp_path: Path) -> None:
    """The server keeps an answer to each of them while the request waits."""

    async def work() -> None:
        async with inside(tmp_path) as bridge, wired(bridge) as wire:
            many = ua.PublishRequest()
            many.Parameters.SubscriptionAcknowledgements = [ua.SubscriptionAcknowledgement(1, 1)] * 501
            with pytest.raises(ua.UaStatusCodeError, match="BadTooManyOperations"):
                await wire.ask(many, ua.PublishResponse)

    run(work())


def test_a_large_filter_of_events_is_refused(tmp_path: Path) -> None:
    """The server keeps a filter while its client watches."""
    wanted = ua.EventFilter(SelectClauses=[ua.SimpleAttributeOperand(ua.NodeId(2041), [ua.QualifiedName("x" * 5000)], 13)])

    async def work() -> None:
        async with inside(tmp_path) as bridge, Client(bridge.url, timeout=20) as client:

            class Listener:
                def event_notification(self, event: Any) -> None:
                    """Take an event."""

            subscription = await client.create_subscription(50, Listener())
            with pytest.raises(ua.UaStatusCodeError, match="BadEventFilterInvalid"):
                await watch_events(client, subscription, wanted)

    run(work())


def test_a_long_address_is_not_repeated(tmp_path: Path) -> None:
    """A client learns the bridge's address by the name that it uses, unless that is longer than the standard allows."""

    async def work() -> None:
        async with inside(tmp_path) as bridge:
            wire = Wire(*await asyncio.open_connection("127.0.0.1", port(bridge)))
            await wire.open_channel()
            for name, repeated in (("plc", True), ("x" * 5000, False)):
                request = ua.GetEndpointsRequest()
                request.Parameters.EndpointUrl = f"opc.tcp://{name}:4840"
                response = await wire.ask(request, ua.GetEndpointsResponse)
                assert response.Endpoints
                assert all((name in endpoint.EndpointUrl) is repeated for endpoint in response.Endpoints)
            await wire.close()

    run(work())


def test_flags_that_a_client_makes_up_are_not_kept() -> None:
    """Python keeps an object for each combination of flags that was ever decoded; 15 bytes would become half a kilobyte."""
    known = len(ua.PermissionType._value2member_map_)
    for flags in range(0x1000_0000, 0x1000_0100):
        content = extensionobject_to_binary(ua.RolePermissionType(RoleId=ua.NodeId(1), Permissions=flags))
        assert extensionobject_from_binary(Buffer(content)).Permissions == flags
    assert len(ua.PermissionType._value2member_map_) == known
