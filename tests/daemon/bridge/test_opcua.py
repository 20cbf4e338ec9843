"""A whole OPC UA bridge between a real station and clients: asyncua's, and node-opcua's."""

import asyncio
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua
from support.anosegd_line import LIMIT_S, Line, run_anosegd, wait_until
from support.bridge_process import Bridged
from support.made_once import made_once
from support.opcua import PREFIX, Identity, OpcUaBridge, Plc


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 2 * LIMIT_S))


def test_parts_are_triggered_and_judged(bridged: Bridged) -> None:
    """Ten parts of a good and a bad kind in turn: each gets its own result, in order."""
    bridged.start_station()
    bridge = OpcUaBridge(bridged)

    async def work() -> None:
        async with await bridge.client() as client:
            plc = Plc(client)
            await plc.open()
            results = []
            for n in range(10):
                await plc.trigger(f"part {n}")
                results.append(await plc.result())
            assert results == [(f"part {n}", "FAIL" if n % 2 else "PASS") for n in range(10)]
            assert [await plc.get(name) for name in ("passed", "failed", "unknown")] == [5, 5, 0]

    run(work())
    assert bridge.process.terminate() == 0


def test_a_station_that_is_killed_takes_the_result_away(bridged: Bridged) -> None:
    """result_valid falls, the outcome reads UNKNOWN, and what comes from the station is uncertain until it is heard again."""
    bridged.start_station()
    bridge = OpcUaBridge(bridged)

    async def work() -> None:
        async with await bridge.client() as client:
            plc = Plc(client)
            await plc.open()
            await plc.trigger("4711")
            await plc.wait("result_valid")
            assert (await plc.get("outcome"), await plc.get("result_pass")) == (1, True)
            assert (await plc.data("outcome")).StatusCode.is_good()
            bridged.line.daemons[-1].process.send_signal(signal.SIGKILL)
            await plc.wait("online", False)
            for name, value in (("outcome", 0), ("outcome_text", "UNKNOWN"), ("part_id", ""), ("station_state", 0)):
                data = await plc.data(name)
                assert (data.Value.Value, data.StatusCode.name) == (value, "UncertainInitialValue"), name
            for name in ("result_valid", "result_pass", "enabled"):
                data = await plc.data(name)
                assert (data.Value.Value, data.StatusCode.is_good()) == (False, True), name
            bridged.start_station()
            await plc.wait("online")
            assert (await plc.data("outcome")).StatusCode.is_good()
            assert await plc.get("result_valid") is False

    run(work())


def test_only_trusted_clients_connect(bridged: Bridged) -> None:
    """Without security, or with an unknown certificate: refused and logged. Moving its file lets it in, removing it ends it."""
    bridge = OpcUaBridge(bridged)
    stranger = Identity(bridged.line.folder / "plc", "stranger")

    async def work() -> None:
        with pytest.raises(ua.UaStatusCodeError, match="BadSecurityModeInsufficient"):
            async with Client(bridge.url, timeout=LIMIT_S):
                pass
        with pytest.raises(ua.UaStatusCodeError, match="BadCertificateUntrusted"):
            async with await bridge.client(stranger):
                pass
        (kept,) = (bridge.folder / "rejected").iterdir()
        assert kept.read_bytes() == stranger.certificate.read_bytes()
        kept.rename(bridge.folder / "trusted" / "stranger.der")
        async with await bridge.client(stranger) as client, await bridge.client() as other:
            assert await Plc(client).get("online") is False
            bridge.distrust(stranger)
            bridge.process.wait_for("its certificate is no longer in trusted/")
            with pytest.raises((ConnectionError, asyncio.TimeoutError, ua.UaError)):
                await Plc(client).get("online")
            assert await Plc(other).get("online") is False

    run(work())
    assert "bridge.certificate_refused" in bridge.process.log
    assert "Traceback" not in bridge.process.log


def test_a_client_cannot_borrow_a_certificate(bridged: Bridged) -> None:
    """A certificate is public: who only shows another's, without its key, is not let in."""
    bridge = OpcUaBridge(bridged)
    thief = Identity(bridged.line.folder / "plc", "thief")

    async def work() -> None:
        thief.certificate.write_bytes(bridge.plc.certificate.read_bytes())
        client = await bridge.client(thief)
        client._timeout = client.uaclient._timeout = 5
        with pytest.raises((ConnectionError, asyncio.TimeoutError, ua.UaError)):
            await client.connect()

    run(work())
    wait_until(lambda: "it sent a message that cannot be decoded" in bridge.process.log, "the log says so")


def test_without_certificates_only_if_configured(bridged: Bridged) -> None:
    """opcua.anonymous lets everybody in, and the log says so."""
    bridge = OpcUaBridge(bridged, opcua=", anonymous: true")

    async def work() -> None:
        async with Client(bridge.url, timeout=LIMIT_S) as client:
            plc = Plc(client)
            await plc.set(enable=False)
            assert await plc.get("idle") is True
        async with await bridge.client() as client:
            assert await Plc(client).get("idle") is True

    run(work())
    assert "bridge.open_to_network" in bridge.process.log


def test_what_a_client_may_write(bridged: Bridged) -> None:
    """Inputs, in their types; nothing else. What is refused changes nothing."""
    bridge = OpcUaBridge(bridged)
    string, boolean = ua.VariantType.String, ua.VariantType.Boolean

    async def work() -> None:
        async with await bridge.client() as client:
            for place, value, code in (
                ("Inputs.enable", ua.Variant(1, ua.VariantType.Int32), "BadTypeMismatch"),
                ("Inputs.enable", ua.Variant([True], boolean), "BadTypeMismatch"),
                ("Inputs.part_id", ua.Variant("x" * 121, string), "BadOutOfRange"),
                ("Inputs.part_id", ua.Variant("\udc80", string), "BadOutOfRange"),
                ("Outputs.result_valid", ua.Variant(True, boolean), "BadNotWritable"),
                ("Inputs.none", ua.Variant(True, boolean), "BadNodeIdUnknown"),
            ):
                with pytest.raises(ua.UaStatusCodeError, match=code):
                    await client.get_node(PREFIX + place).write_value(value)
            with pytest.raises(ua.UaStatusCodeError, match="BadNotWritable"):
                await client.nodes.server_state.write_value(ua.Variant(1, ua.VariantType.Int32))
            with pytest.raises(ua.UaStatusCodeError, match="BadServiceUnsupported"):
                await client.nodes.objects.add_object(2, "mine")
            with pytest.raises(ua.UaStatusCodeError, match="BadInvalidState"):
                await Plc(client).set(enable=False, part_id="x" * 121)
            assert await Plc(client).get("idle") is False
            await client.get_node(PREFIX + "Inputs.part_id").write_value("4711\0rest")
            assert await client.get_node(PREFIX + "Inputs.part_id").read_value() == "4711"

    run(work())


def test_results_and_state_are_those_of_machine_vision(bridged: Bridged) -> None:
    """OPC 40100-1: the state machine, each result with its ids, an event, what methods find; recipes prepared and refused."""
    bridged.start_station(f"recipes: {{lid: {{bundle: '{bridged.line.store}', cameras: {{eye: {{}}}}}}}}")
    bridge = OpcUaBridge(bridged)

    async def work() -> None:
        async with await bridge.client() as client:
            plc = Plc(client)
            await client.load_data_type_definitions()
            machine = f"{PREFIX}VisionSystem.VisionStateMachine"
            automatic, current = f"{machine}.AutomaticModeStateMachine.CurrentState", f"{machine}.CurrentState"
            await plc.wait("online")
            assert (await client.get_node(current).read_value()).Text == "Operational"
            assert (await client.get_node(automatic).read_value()).Text == "ContinuousExecution"
            state = client.get_node(await client.get_node(f"{current}.Id").read_value())
            assert (await state.read_browse_name()).Name == "Operational"

            recipes = client.get_node(f"{PREFIX}VisionSystem.RecipeManagement")
            for name, done in (("lid", [True, 0]), ("nut", [False, 2])):
                wanted = ua.RecipeIdExternalDataType(Id=name), ua.RecipeIdInternalDataType()
                (id_, *answer) = await recipes.call_method("3:PrepareRecipe", *wanted)
                assert (id_.Id, answer) == (name, done), bridge.process.log
            await plc.wait("recipe", "lid")
            in_force = await client.get_node(f"{PREFIX}VisionSystem.RecipeManagement.Recipes.Current.InternalId").read_value()
            assert (in_force.Id, int.from_bytes(in_force.Hash, "big")) == ("lid", await plc.get("settings"))
            assert await client.get_node(f"{PREFIX}Inputs.recipe").read_value() == "lid"  # not the one that was refused

            events: asyncio.Queue[Any] = asyncio.Queue()

            class Listener:
                def event_notification(self, event: Any) -> None:
                    events.put_nowait(event)

            subscription = await client.create_subscription(50, Listener())
            await subscription.subscribe_events(client.get_node(f"{PREFIX}VisionSystem"), ua.NodeId(1024, 3))
            await plc.open()
            for n in range(2):
                await plc.trigger(f"part {n}")
                await plc.result()
            results = client.get_node(f"{PREFIX}VisionSystem.ResultManagement")
            ids = []
            for n, outcome in enumerate(("PASS", "FAIL")):
                event = await asyncio.wait_for(events.get(), LIMIT_S)
                shown = await client.get_node(f"{results.nodeid.to_string()}.Results.Result{n}").read_value()
                assert (shown.PartId.Id, shown.ExternalRecipeId.Id, shown.ResultState) == (f"part {n}", "lid", 1)
                assert shown.ResultContent[0].Value == outcome
                assert (event.ResultId, event.PartId) == (shown.ResultId, shown.PartId)
                ids.append(shown.ResultId.Id)
                wait = ua.Variant(0, ua.VariantType.Int32)
                _, partial, found, error = await results.call_method("3:GetResultById", shown.ResultId, wait)
                assert (partial, found, error) == (False, shown, 0)
            assert len(set(ids)) == 2
            empty = await client.get_node(f"{results.nodeid.to_string()}.Results.Result2").read_data_value(
                raise_on_bad_status=False
            )
            assert empty.StatusCode.name == "BadWaitingForInitialData"
            with pytest.raises(ua.UaStatusCodeError, match="BadNotSupported"):
                await client.get_node(machine).call_method("3:Halt", ua.Variant(0, ua.VariantType.Int32), "")

            bridged.line.daemons[-1].process.send_signal(signal.SIGKILL)
            await plc.wait("online", False)
            for place in (current, automatic):
                data = await client.get_node(place).read_data_value(raise_on_bad_status=False)
                assert data.StatusCode.name == "BadNoCommunication"

    run(work())


# ---- the command line


def tool(name: str, url: str, node: str, *arguments: str) -> str:
    """Run one of asyncua's tools, as docs/plc-opcua.md does."""
    command = [Path(sys.executable).with_name(name), "-u", url, "-n", f"{PREFIX}{node}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_example_of_the_documentation(bridged: Bridged) -> None:
    """A part is triggered, read and acknowledged with uaread and uawrite."""
    bridged.start_station()
    bridge = OpcUaBridge(bridged, opcua=", anonymous: true")

    def until(name: str) -> None:
        wait_until(lambda: tool("uaread", bridge.url, f"Outputs.{name}") == "True", name)

    until("online")
    for name, value, then in (
        ("enable", "False", "idle"),
        ("enable", "True", "trigger_ready"),
        ("part_id", "4711", ""),
        ("trigger", "True", "trigger_acknowledge"),
        ("trigger", "False", "result_valid"),
    ):
        tool("uawrite", bridge.url, f"Inputs.{name}", "-t", "string" if name == "part_id" else "bool", value)
        if then:
            until(then)
    assert [tool("uaread", bridge.url, f"Outputs.{name}") for name in ("outcome_text", "part_id")] == ["PASS", "4711"]


def test_what_the_command_says_before_it_serves(line: Line) -> None:
    """The map; what to install; a folder that cannot be used; a key that others may read; an address that is no address."""
    path = line.folder / "bridge.yaml"
    path.write_text("camera: top\n")
    checked = run_anosegd("bridge", "opcua", str(path), "--check")
    assert "s=Outputs.result_valid" in checked.stdout
    assert str(line.folder / "opcua") in checked.stdout
    assert not (line.folder / "opcua").exists()
    without = "import sys; sys.modules['asyncua'] = None; from anosegd.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", without, "bridge", "opcua", str(path)], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert (done.returncode, "pip install -c constraints.txt --editable '.[opcua]'" in done.stderr) == (2, True), done.stderr
    (line.folder / "file").touch()
    (line.folder / "keys" / "own").mkdir(parents=True)
    (line.folder / "keys" / "own" / "certificate.der").write_bytes(b"none")
    (line.folder / "keys" / "own" / "key.pem").touch(mode=0o644)
    for opcua, words in (
        ("{folder: file}", "opcua.folder"),
        ("{folder: keys}", "other users can read or change this key"),
        ("{listen: here}", "write 127.0.0.1:4840"),
        ("{listen: '192.0.2.1:4840', folder: new}", "192.0.2.1:4840 cannot be used"),
    ):
        path.write_text(f"camera: top\nopcua: {opcua}\n")
        done = run_anosegd("bridge", "opcua", str(path))
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr


# ---- a stranger

SCRIPT = """
const { OPCUAClient, MessageSecurityMode, SecurityPolicy, AttributeIds, DataType, TimestampsToReturn, constructEventFilter } =
  require("node-opcua-client");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const [url, certificateFile, privateKeyFile, rootFolder] = process.argv.slice(1);
const node = (name) => "ns=2;s=" + name;
(async () => {
  const client = OPCUAClient.create({
    applicationUri: "urn:test:plc", certificateFile, privateKeyFile,
    securityMode: MessageSecurityMode.SignAndEncrypt, securityPolicy: SecurityPolicy.Basic256Sha256,
    clientCertificateManager: new OPCUACertificateManager({ rootFolder, automaticallyAcceptUnknownCertificate: true }),
    connectionStrategy: { maxRetry: 2, initialDelay: 200 },
  });
  await client.connect(url);
  const session = await client.createSession();
  const value = async (name) =>
    (await session.read({ nodeId: node(name), attributeId: AttributeIds.Value })).value.value;
  const until = async (name, wanted = true) => {
    while (await value("Outputs." + name) !== wanted) await new Promise(r => setTimeout(r, 20));
  };
  const write = async (values) => {
    const codes = await session.write(Object.entries(values).map(([name, value]) => ({
      nodeId: node("Inputs." + name), attributeId: AttributeIds.Value,
      value: { value: { dataType: typeof value === "boolean" ? DataType.Boolean : DataType.String, value } },
    })));
    if (!codes.every(code => code.isGood())) throw new Error(codes.join());
  };
  const events = [], beats = [];
  const subscription = await session.createSubscription2({
    requestedPublishingInterval: 50, requestedLifetimeCount: 100, requestedMaxKeepAliveCount: 10, publishingEnabled: true,
  });
  const parameters = { samplingInterval: 50, queueSize: 5, discardOldest: true };
  const heartbeat = await subscription.monitor(
    { nodeId: node("Outputs.heartbeat"), attributeId: AttributeIds.Value }, parameters, TimestampsToReturn.Both);
  heartbeat.on("changed", data => beats.push(data.value.value));
  const ready = await subscription.monitor(
    { nodeId: node("VisionSystem"), attributeId: AttributeIds.EventNotifier },
    { ...parameters, queueSize: 10, filter: constructEventFilter(["EventType", "Message"]) }, TimestampsToReturn.Both);
  ready.on("changed", fields => events.push(fields[1].value.text));

  await until("online");
  await write({ enable: false });
  await until("idle");
  await write({ enable: true });
  const outcomes = [];
  for (let n = 0; n < 4; n++) {
    await until("trigger_ready");
    await write({ part_id: "part " + n, trigger: true });
    await until("trigger_acknowledge");
    await write({ trigger: false });
    await until("result_valid");
    outcomes.push([await value("Outputs.outcome_text"), await value("Outputs.part_id")]);
    await write({ result_acknowledge: true });
    await until("result_valid", false);
    await write({ result_acknowledge: false });
  }
  const state = (await value("VisionSystem.VisionStateMachine.CurrentState")).text;
  const result = await value("VisionSystem.ResultManagement.Results.Result3");
  while (events.length < 4 || beats.length < 2) await new Promise(r => setTimeout(r, 20));
  await subscription.terminate();
  await session.close();
  await client.disconnect();
  const ids = { part: result.partId.id, recipe: result.internalRecipeId.id };
  console.log("RESULT " + JSON.stringify({ outcomes, state, events, ...ids }));
  process.exit(0);
})().catch(error => { console.error(error); process.exit(1); });
"""


@pytest.fixture(scope="session")
def node_opcua(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with npm's node-opcua-client and a Node that is new enough. Skips the test where they cannot be installed."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine())
    if shutil.which("npm") is None or machine is None:
        pytest.skip("no npm here")

    def make(folder: Path) -> None:
        # `node` itself would need a script to find its package for this machine.
        packages = (f"node-linux-{machine}@22", "node-opcua-client@2.186")
        subprocess.run(
            ["npm", "install", "--prefix", ".", "--no-audit", "--no-fund", "--ignore-scripts", "--force", *packages],
            cwd=folder,
            capture_output=True,
            timeout=250,
        )
        (folder / "node").symlink_to(folder / "node_modules" / f"node-linux-{machine}" / "bin" / "node")

    folder = made_once(tmp_path_factory, "node-opcua", make)
    if not (folder / "node").exists() or not (folder / "node_modules" / "node-opcua-client").exists():
        pytest.skip("node-opcua cannot be installed here")
    return folder


def test_node_opcua_triggers_parts_and_reads_their_results(bridged: Bridged, node_opcua: Path) -> None:
    """npm's client: encrypted, with reads, writes, a subscription and events, and the standard's structures decoded."""
    bridged.start_station()
    bridge = OpcUaBridge(bridged)
    folder = bridged.line.folder
    certificate = folder / "plc.crt"
    subprocess.run(["openssl", "x509", "-inform", "der", "-in", bridge.plc.certificate, "-out", certificate], check=True)
    done = subprocess.run(
        [node_opcua / "node", "-e", SCRIPT, "--", bridge.url, certificate, bridge.plc.key, folder / "pki"],
        cwd=node_opcua,
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_S,
        env={**os.environ, "HOME": str(folder)},
    )
    assert done.returncode == 0, done.stderr + bridge.process.log
    printed = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    assert json.loads(printed.removeprefix("RESULT ")) == {
        "outcomes": [["FAIL" if n % 2 else "PASS", f"part {n}"] for n in range(4)],
        "state": "Operational",
        "events": ["PASS", "FAIL", "PASS", "FAIL"],
        "part": "part 3",
        "recipe": "default",
    }


# ---- limits


def test_sessions_of_crashed_clients_are_freed(bridged: Bridged) -> None:
    """Clients with subscriptions that reset their connections, and one that goes silent: no session or connection is left."""
    bridge = OpcUaBridge(bridged)

    async def work() -> None:
        lost = []
        for _ in range(3):
            client = await bridge.client()
            await client.connect()
            subscription = await client.create_subscription(100, object())
            await subscription.subscribe_data_change(client.get_node(f"{PREFIX}Outputs.heartbeat"))
            lost.append(client)
        silent, *reset = [client.uaclient.protocol.transport for client in lost]
        silent.pause_reading()  # as a host without power: nothing comes any more, no reset either
        silent.write = lambda _: None
        for transport in reset:
            transport.abort()
        async with await bridge.client() as client:
            plc = Plc(client)
            summary = f"{PREFIX}Diagnostics."
            assert await client.get_node(f"{summary}sessions").read_value() >= 3
            for _ in range(int(LIMIT_S)):
                await asyncio.sleep(1)
                if await client.get_node(f"{summary}sessions").read_value() == 1:
                    break
            assert await client.get_node(f"{summary}sessions").read_value() == 1
            assert await client.get_node(f"{summary}subscriptions").read_value() == 0
            for _ in range(int(LIMIT_S)):
                if await client.get_node(f"{summary}connections").read_value() == 1:
                    break
                await asyncio.sleep(1)
            assert await client.get_node(f"{summary}connections").read_value() == 1
            assert await plc.get("online") is False
            silent.abort()

    run(work())


def test_what_a_client_asks_for_is_limited(bridged: Bridged) -> None:
    """Subscriptions, monitored items, intervals, queues, nodes in a request, sessions, and those on one connection."""
    bridge = OpcUaBridge(bridged)

    async def work() -> None:
        async with await bridge.client() as client:
            heartbeat = client.get_node(f"{PREFIX}Outputs.heartbeat")
            subscription = await client.create_subscription(0.001, object())
            assert subscription.parameters.RequestedPublishingInterval == 20.0  # asyncua's client takes what the bridge allows
            subs = [await client.create_subscription(500, object()) for _ in range(4)]
            with pytest.raises(ua.UaStatusCodeError, match="BadTooManySubscriptions"):
                await client.create_subscription(500, object())
            for sub in subs:
                await sub.subscribe_data_change([heartbeat] * 100)
            await subscription.subscribe_data_change([heartbeat] * 100)
            with pytest.raises(ua.UaStatusCodeError, match="BadTooManyMonitoredItems"):
                await subscription.subscribe_data_change(heartbeat)
            await subs[0].unsubscribe(list(subs[0]._monitored_items)[:1])
            value = ua.ReadValueId(NodeId=heartbeat.nodeid, AttributeId=ua.AttributeIds.Value)
            for size, revised in ((10_000, 10), (0, 10), (1, 1)):
                item = ua.MonitoredItemCreateRequest(value, RequestedParameters=ua.MonitoringParameters(QueueSize=size))
                wanted = ua.CreateMonitoredItemsParameters(subs[0].subscription_id, ItemsToCreate=[item])
                (made,) = await client.uaclient.create_monitored_items(wanted)
                assert (made.StatusCode.is_good(), made.RevisedQueueSize) == (True, revised)
                parameters = ua.MonitoringParameters(QueueSize=size)
                change = ua.MonitoredItemModifyRequest(made.MonitoredItemId, parameters)
                (changed,) = await client.uaclient.modify_monitored_items(
                    ua.ModifyMonitoredItemsParameters(subs[0].subscription_id, ItemsToModify=[change])
                )
                assert changed.RevisedQueueSize == max(1, min(size, 10))
                gone = ua.DeleteMonitoredItemsParameters(subs[0].subscription_id, [made.MonitoredItemId])
                await client.uaclient.delete_monitored_items(gone)
            with pytest.raises(ua.UaStatusCodeError, match="BadTooManyOperations"):
                await client.read_values([heartbeat] * 501)
            assert await client.read_values([heartbeat] * 500)
        async with await bridge.client() as client:  # a second session on a connection ends the first
            await client.create_session()
            await client.activate_session()
            assert await client.get_node(f"{PREFIX}Diagnostics.sessions").read_value() == 1
        clients = [await bridge.client() for _ in range(33)]
        for client in clients[:32]:
            await client.connect()
        with pytest.raises(ua.UaStatusCodeError, match="BadTooManySessions"):
            await clients[32].connect()
        for client in clients[:32]:
            await client.disconnect()
        async with await bridge.client() as client:
            assert await Plc(client).get("online") is False

    run(work())
