"""The OPC UA server of the bridge, in the test's own process: what only one client's requests or exact times can show."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua
from support.opcua import PREFIX
from support.opcua_inside import Inside, inside, put, read, watch_events

from anosegd.bridge.encoding import STATUS_BITS
from anosegd.bridge.opcua.event_filters import check_event_filter
from anosegd.bridge.tags import Outputs

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

    async def wait(self, count: int) -> None:
        """Wait until there are so many values."""
        while len(self.values) < count:
            await asyncio.sleep(0.01)


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
    "a long text": where((ua.FilterOperator.IsNull, [ua.LiteralOperand(Value=ua.Variant("x" * 5000))])),
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
            while len(heard.events) < 3:
                await asyncio.sleep(0.01)
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
    assert "could not be sent to all clients" in str(vars(line))


# ---- recipes, and the order of changes


async def prepare(client: Client, recipe: str) -> tuple[bool, int]:
    """Call PrepareRecipe; return whether the recipe is in force, and the error."""
    recipes = client.get_node("ns=2;s=VisionSystem.RecipeManagement")
    wanted = ua.RecipeIdExternalDataType(Id=recipe), ua.RecipeIdInternalDataType()
    _, done, error = await recipes.call_method("3:PrepareRecipe", *wanted)
    return done, error


def asked(bridge: Inside) -> list[str]:
    """Return the recipes that the station was asked for, by changes and by triggers."""
    return [request.recipe for request in bridge.sent]


def test_a_refused_recipe_leaves_the_earlier_one(tmp_path: Path) -> None:
    """The next trigger asks for the recipe that the PLC has written, not for the one that was refused."""

    async def work() -> None:
        async with inside(tmp_path) as bridge, connected(bridge) as client:
            await client.load_data_type_definitions()
            assert await prepare(client, "nut") == (False, 2)
            assert bridge.model._controls.recipe is None  # as before: never written
            await put(client, recipe="lid")
            await put(client, enable=False)
            await put(client, enable=True)
            assert await read(client, "Outputs.enabled") is True
            assert await prepare(client, "nut") == (False, 2)
            assert await read(client, "Inputs.recipe") == "lid"
            await put(client, part_id="4711", trigger=True)
            assert asked(bridge) == ["nut", "nut", "lid"]
            await put(client, trigger=False)
            assert await prepare(client, "box") == (True, 0)
            assert await read(client, "Inputs.recipe") == "box"

    run(work())


def test_what_the_plc_writes_counts_more_than_a_call(tmp_path: Path) -> None:
    """Another recipe, a lowered or an own `recipe_change`: the call fails at once, and the PLC's inputs stay."""

    async def work() -> None:
        async with inside(tmp_path) as bridge, connected(bridge) as client, connected(bridge) as plc:
            await client.load_data_type_definitions()
            await put(plc, recipe="lid")
            for written, then in (
                ({"recipe": "box"}, ("box", False)),
                ({"recipe": "box", "recipe_change": True}, ("box", True)),
                ({"recipe": "lid", "recipe_change": False}, ("lid", False)),
                ({"recipe_change": False}, ("lid", False)),
            ):
                await put(plc, recipe="lid", recipe_change=False)
                await asyncio.sleep(0.2)
                bridge.answers = False
                call = asyncio.create_task(prepare(client, "nut"))
                while await read(plc, "Inputs.recipe_change") is False:
                    await asyncio.sleep(0.01)
                bridge.answers = True
                await put(plc, **written)
                assert await asyncio.wait_for(call, 2) == (False, 2), written
                assert (await read(plc, "Inputs.recipe"), await read(plc, "Inputs.recipe_change")) == then, written
                if bridge.sent[-1].recipe == "nut":  # the station has not answered yet
                    bridge._answer(bridge.sent[-1])

    run(work())


def test_a_call_does_not_keep_its_session_waiting(tmp_path: Path) -> None:
    """While PrepareRecipe waits for the station, the same session reads; a client that is lost ends its call."""

    async def work() -> None:
        async with inside(tmp_path) as bridge, connected(bridge) as other:
            await put(other, recipe="lid")
            client = connected(bridge)
            await client.connect()
            await client.load_data_type_definitions()
            bridge.answers = False
            call = asyncio.create_task(prepare(client, "box"))
            begin = time.monotonic()
            while await read(client, "Inputs.recipe_change") is False:
                await asyncio.sleep(0.01)
            assert await read(client, "Inputs.recipe") == "box"
            assert time.monotonic() - begin < 5.0
            assert not call.done()
            client.uaclient.protocol.transport.abort()
            while await read(other, "Inputs.recipe_change") is True:
                await asyncio.sleep(0.01)
            assert time.monotonic() - begin < 8.0  # the call itself would take ten
            assert await read(other, "Inputs.recipe") == "lid"
            call.cancel()

    run(work())


def test_who_subscribes_gets_the_result_before_its_toggle(tmp_path: Path) -> None:
    """Values first when a result is shown, status first when it is taken away."""

    async def work() -> None:
        async with inside(tmp_path) as bridge, connected(bridge) as client:
            heard = Listener()
            subscription = await client.create_subscription(50, heard)
            names = ["outcome_text", "result_toggle", "part_id", "result_valid"]
            await subscription.subscribe_data_change([client.get_node(f"ns=2;s=Outputs.{name}") for name in names])
            await heard.wait(len(names))
            for shown in (True, False):
                heard.values.clear()
                if shown:
                    bridge.show_result(1, result_toggle=True)
                else:
                    bridge.show(replace(Outputs(), station_state="Ready", result_toggle=False))
                await heard.wait(len(names))
                kinds = [name.removeprefix("Outputs.") in STATUS_BITS for name, _ in heard.values]
                assert kinds == ([False, False, True, True] if shown else [True, True, False, False]), heard.values

    run(work())


def test_a_client_changes_no_subscription_of_another(tmp_path: Path) -> None:
    """It can neither end, stop nor read it, and acknowledges nothing for the other."""

    async def work() -> None:
        async with inside(tmp_path) as bridge, connected(bridge) as client, connected(bridge) as other:
            subscription = await client.create_subscription(50, Listener())
            await subscription.subscribe_data_change(client.get_node(f"{PREFIX}Outputs.heartbeat"))
            id_, ask = subscription.subscription_id, other.uaclient
            (ended,) = await ask.delete_subscriptions([id_])
            (stopped,) = await ask.set_publishing_mode(ua.SetPublishingModeParameters(False, [id_]))
            assert ended.name == stopped.name == "BadSubscriptionIdInvalid"
            with pytest.raises(ua.UaStatusCodeError, match="BadSubscriptionIdInvalid"):
                await ask.set_monitoring_mode(ua.SetMonitoringModeParameters(id_, ua.MonitoringMode.Disabled, [112]))
            with pytest.raises(ua.UaStatusCodeError, match="BadSubscriptionIdInvalid"):
                await ask.delete_monitored_items(ua.DeleteMonitoredItemsParameters(id_, [112]))
            served = bridge.server.iserver.subscription_service.subscriptions[id_]
            assert served._publishing_enabled
            (item,) = served.monitored_item_srv._monitored_items.values()
            assert item.mode is ua.MonitoringMode.Reporting
            served._not_acknowledged_results[99] = ua.PublishResult()
            sessions = bridge.server.iserver._external_sessions.values()
            (session,) = [session for session in sessions if session.session_id != served.session_id]
            _, codes = session.publish([ua.SubscriptionAcknowledgement(id_, 99)])
            assert [code.name for code in codes] == ["BadSubscriptionIdInvalid"]
            assert 99 in served._not_acknowledged_results

    run(work())


def test_tokens_of_sessions_cannot_be_guessed(tmp_path: Path) -> None:
    """After a restart of the bridge, a client that goes on with its old token must not get the session of another."""

    async def work() -> None:
        async with inside(tmp_path) as bridge, connected(bridge), connected(bridge):
            tokens = set(bridge.server.iserver._external_sessions)
            assert len({token.Identifier for token in tokens}) == 2
            assert all(token.NodeIdType == ua.NodeIdType.ByteString and len(token.Identifier) == 32 for token in tokens)

    run(work())
