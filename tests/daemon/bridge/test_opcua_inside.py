"""The OPC UA server of the bridge, in the test's own process: what only one client's requests or exact times can show."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua
from support.opcua_inside import Inside, inside, watch_events

from anosegd.bridge.opcua.event_filters import check_event_filter

MESSAGE = ua.SimpleAttributeOperand(ua.NodeId(2041), [ua.QualifiedName("Message")], ua.AttributeIds.Value)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def connected(bridge: Inside) -> Client:
    """Return a client for `async with`."""
    return Client(bridge.url, timeout=20)


class Listener:
    """Counts what a subscription brings."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.values: list[tuple[str, Any]] = []

    def event_notification(self, event: Any) -> None:
        self.events.append(event)

    def datachange_notification(self, node: Any, value: Any, _: Any) -> None:
        self.values.append((str(node.nodeid.Identifier), value))


def field(*path: str, attribute: int = ua.AttributeIds.Value) -> ua.SimpleAttributeOperand:
    return ua.SimpleAttributeOperand(ua.NodeId(2041), [ua.QualifiedName(name) for name in path], attribute)


def where(*operators: tuple[Any, list[Any]]) -> ua.EventFilter:
    elements = [ua.ContentFilterElement(operator, operands) for operator, operands in operators]
    return ua.EventFilter(SelectClauses=[MESSAGE], WhereClause=ua.ContentFilter(Elements=elements))


def chain(length: int) -> ua.EventFilter:
    """Return a filter in which each element asks the next one twice."""
    one = ua.LiteralOperand(Value=ua.Variant(1))
    both = [(ua.FilterOperator.And, [ua.ElementOperand(Index=n + 1)] * 2) for n in range(length - 1)]
    return where(*both, (ua.FilterOperator.Equals, [one, one]))


BAD_FILTERS = {
    "none": None,
    "of values": ua.DataChangeFilter(),
    "defaults": ua.EventFilter(SelectClauses=[ua.SimpleAttributeOperand()]),
    "no such attribute": ua.EventFilter(SelectClauses=[field(attribute=77)]),
    "an own name": ua.EventFilter(SelectClauses=[field("data_types")]),
    "a method": ua.EventFilter(SelectClauses=[field("to_event_fields")]),
    "a part of Python": ua.EventFilter(SelectClauses=[field("__class__")]),
    "no name": ua.EventFilter(SelectClauses=[ua.SimpleAttributeOperand(ua.NodeId(2041), [ua.QualifiedName(None)], 13)]),
    "33 fields": ua.EventFilter(SelectClauses=[MESSAGE] * 33),
    "9 elements": chain(9),
    "a circle": where((ua.FilterOperator.Not, [ua.ElementOperand(Index=0)])),
    "20 operands at each of 4 elements": where(
        *((ua.FilterOperator.InList, [ua.ElementOperand(Index=n + 1)] * 20) for n in range(3)),
        (ua.FilterOperator.InList, [ua.LiteralOperand(Value=ua.Variant(1))] * 20),
    ),
}


@pytest.mark.parametrize("name", BAD_FILTERS)
def test_filters_that_cannot_be_carried_out_are_refused(name: str) -> None:
    """Each of them would raise when an event comes, or compute for long."""
    with pytest.raises(ua.uaerrors.UaError):
        check_event_filter(BAD_FILTERS[name])


def test_filters_of_real_clients_pass() -> None:
    """A null path with the attribute NodeId, as UaExpert sends it; no fields; fields that are not there; a chain of eight."""
    condition = ua.SimpleAttributeOperand(ua.NodeId(2782), None, ua.AttributeIds.NodeId)
    for wanted in (
        ua.EventFilter(SelectClauses=[condition, MESSAGE, field("Nothing"), field("EnabledState", "Id")]),
        ua.EventFilter(SelectClauses=None, WhereClause=ua.ContentFilter(Elements=None)),
        chain(8),
    ):
        check_event_filter(wanted)


def test_no_filter_ends_the_bridge(tmp_path: Path) -> None:
    """What a client subscribes to is refused, or served; another client gets its events, and the bridge goes on."""

    async def work() -> None:
        async with (
            inside(tmp_path) as bridge,
            Client(bridge.url, timeout=20) as client,
            Client(bridge.url, timeout=20) as other,
        ):
            subscription, heard = await client.create_subscription(50, Listener()), Listener()
            for wanted in BAD_FILTERS.values():
                with pytest.raises((ua.UaStatusCodeError, TypeError, AttributeError)):  # some cannot even be sent
                    await watch_events(client, subscription, wanted)
            null = ua.SimpleAttributeOperand(ua.NodeId(2782), None, ua.AttributeIds.NodeId)
            await watch_events(client, subscription, ua.EventFilter(SelectClauses=[null]))
            item = await watch_events(client, subscription, chain(8))
            change = ua.MonitoredItemModifyRequest(item, ua.MonitoringParameters(1, 10, ua.DataChangeFilter(), 1))
            for client_, code in ((client, "BadEventFilterInvalid"), (other, "BadSubscriptionIdInvalid")):
                with pytest.raises(ua.UaStatusCodeError, match=code):
                    await client_.uaclient.modify_monitored_items(
                        ua.ModifyMonitoredItemsParameters(subscription.subscription_id, ItemsToModify=[change])
                    )
            with pytest.raises(ua.UaStatusCodeError, match="BadSubscriptionIdInvalid"):
                await watch_events(other, subscription, chain(8))
            for _ in range(18):
                await watch_events(client, subscription, ua.EventFilter(SelectClauses=[MESSAGE]))
            with pytest.raises(ua.UaStatusCodeError, match="BadTooManyMonitoredItems"):
                await watch_events(client, subscription, ua.EventFilter(SelectClauses=[MESSAGE]))
            listens = await other.create_subscription(50, heard)
            await listens.subscribe_events(other.get_node("ns=2;s=VisionSystem"), ua.NodeId(1024, 3))
            for n in range(1, 4):
                bridge.show_result(n)
                await asyncio.sleep(0.2)
            assert len(heard.events) == 3

    run(work())


def test_an_event_that_cannot_be_made_does_not_end_the_bridge(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever asyncua raises about a subscription is logged."""

    async def work() -> None:
        async with inside(tmp_path) as bridge:

            async def fail(**_: Any) -> None:
                raise KeyError("data_types")

            bridge.server._vision._event.trigger = fail
            bridge.show_result(1)
            await asyncio.sleep(0.2)

    run(work())
    (line,) = [record for record in caplog.records if record.message == "bridge.client_refused"]
    assert "an event cannot be sent" in str(vars(line))
