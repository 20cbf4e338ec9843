"""Mirrors results and state at an MQTT 5 broker. It opens the handshake and acknowledges each result by itself.

Everything but paho's callbacks runs on the event loop's thread; those run on paho's and only hand over. Each connection has a
client of its own, so that nothing that one could not deliver is sent by the next: it would be old by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from anoseg_engines.errors import ConfigError
from anosegd import logs
from anosegd.bridge.config import MqttConfig
from anosegd.bridge.kind import Handle
from anosegd.bridge.mqtt.payloads import LOST, result_of, state_of
from anosegd.bridge.tags import Controls, Outputs

KEEPALIVE_S = 5
CONNECT_S = 5.0
RETRY_S = 1.0
LONGEST_RETRY_S = 15.0
RESULT_EXPIRES_S = 5
"""The broker throws a result away that it could not deliver for so long."""


class MqttMirror:
    """Is the kind `mqtt`."""

    listens = False

    def __init__(self, config: MqttConfig, camera: str) -> None:
        self._config = config
        self._topic = f"{config.topic}/{camera}"
        self._handle: Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outputs = Outputs()
        self._controls = Controls()
        self._client: Client | None = None  # while it is connected
        self._state_sent: bytes | None = None
        self._driving = False
        self._task: asyncio.Task[None] | None = None
        self._context = None if config.tls is None else _tls_context(config)
        self._password = _password(config)

    @property
    def place(self) -> str:
        """Where others find what it publishes."""
        return f"MQTT {self._config.broker}, {self._topic}"

    async def start(self, handle: Handle) -> None:
        """Begin to look for the broker."""
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._stay_connected())

    def show(self, outputs: Outputs) -> None:
        """Publish what has changed."""
        self._outputs = outputs
        if self._loop is not None and not self._driving:
            self._driving = True
            self._loop.call_soon(self._drive)

    async def stop(self) -> None:
        """Say that the bridge has ended, and end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _drive(self) -> None:
        """Be the PLC: open the handshake, publish each result and acknowledge it. Called again as long as anything changes."""
        self._driving = False
        outputs, controls = self._outputs, self._controls
        if self._client is None:
            wanted = Controls(enable=False)
        elif not outputs.enabled:
            wanted = Controls(enable=outputs.idle)
        else:
            wanted = replace(controls, enable=True, result_acknowledge=outputs.result_valid)
            if outputs.result_valid and not controls.result_acknowledge:
                self._publish("result", result_of(outputs), expires_s=RESULT_EXPIRES_S)
        if self._client is not None and (state := state_of(outputs)) != self._state_sent:
            self._publish("state", state, retain=True)
            self._state_sent = state
        if wanted != controls:
            assert self._handle is not None
            self._controls = wanted
            self._handle.write(wanted)

    def _publish(self, name: str, payload: bytes, *, retain: bool = False, expires_s: int | None = None) -> None:
        assert self._client is not None
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = "application/json"
        if expires_s is not None:
            properties.MessageExpiryInterval = expires_s
        self._client.publish(f"{self._topic}/{name}", payload, qos=1, retain=retain, properties=properties)

    async def _stay_connected(self) -> None:
        """Connect to the broker again and again, until cancelled."""
        pause_s, said = RETRY_S, ""
        while True:
            ended: asyncio.Queue[str] = asyncio.Queue()
            client = self._new_client(ended)
            try:
                host, port = self._config.address
                await asyncio.to_thread(partial(client.connect, host, port, KEEPALIVE_S, clean_start=True))
                client.loop_start()
                why = await self._use(client, ended)
                pause_s = RETRY_S
            except (OSError, ValueError) as error:
                why = str(error)
            finally:
                self._client = None
                await asyncio.to_thread(client.loop_stop)
            self.show(self._outputs)
            if why != said:
                logs.warning("bridge.broker_lost", broker=self._config.broker, why=why)
                said = why
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_RETRY_S)

    async def _use(self, client: Client, ended: asyncio.Queue[str]) -> str:
        """Publish through a client until its connection ends; return why."""
        try:
            why = await asyncio.wait_for(ended.get(), CONNECT_S)
            if why:
                return why
            logs.info("bridge.broker_connected", broker=self._config.broker, topic=self._topic)
            self._client, self._state_sent = client, None
            self.show(self._outputs)
            return await ended.get() or "the connection was lost"
        except asyncio.TimeoutError:
            return "the broker does not answer"
        finally:
            if client.is_connected():
                self._client = client
                self._publish("state", LOST, retain=True)
                client.disconnect()  # sends what was published first

    def _new_client(self, ended: asyncio.Queue[str]) -> Client:
        """Return a client that reports into `ended`: an empty text when it is connected, later why it is not any more."""
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_S
        client.max_queued_messages_set(1000)
        client.will_set(f"{self._topic}/state", LOST, qos=1, retain=True)
        if self._config.user is not None:
            client.username_pw_set(self._config.user, self._password)
        if self._context is not None:
            client.tls_set_context(self._context)
        loop = asyncio.get_running_loop()

        def report(why: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(ended.put_nowait, why)

        def connected(_: Client, __: Any, ___: Any, reason: Any, ____: Any) -> None:
            report(f"the broker refuses the connection: {reason}" if reason.is_failure else "")

        def disconnected(_: Client, __: Any, ___: Any, reason: Any, ____: Any) -> None:
            report(f"the connection was lost: {reason}")

        client.on_connect, client.on_disconnect = connected, disconnected
        return client


def _tls_context(config: MqttConfig) -> ssl.SSLContext:
    """Return the settings of TLS.

    Raises:
        ConfigError: A file cannot be used.
    """
    tls = config.tls
    assert tls is not None
    context = ssl.create_default_context()
    for name, path in (("ca", tls.ca), ("certificate", tls.certificate)):
        if path is None:
            continue
        try:
            if name == "ca":
                context = ssl.create_default_context(cafile=path)
            else:
                context.load_cert_chain(path, tls.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"mqtt.tls.{name}: {path}: cannot be used ({error})", hint="give a PEM file") from error
    return context


def _password(config: MqttConfig) -> str | None:
    if config.password_file is None:
        return None
    try:
        return Path(config.password_file).read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        hint = "give a text file with the password in its first line, which the bridge's user may read"
        raise ConfigError(f"mqtt.password_file: {config.password_file}: cannot be read ({error})", hint=hint) from error
