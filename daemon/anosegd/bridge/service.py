"""Runs a bridge. The event loop of the main thread owns the handshake and the kind; `station_link.py` has the other threads."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Mapping
from typing import Any

from anoseg_engines.errors import PublishError
from anosegd import logs
from anosegd.bridge.config import Target
from anosegd.bridge.handshake import Handshake
from anosegd.bridge.handshake_data import Settings
from anosegd.bridge.kind import Kind
from anosegd.bridge.station_link import Change, StationRequests, VerdictFeed
from anosegd.bridge.tags import Controls, ErrorCode, Outputs
from anosegd.systemd import Notifier
from anosegd.worker import Worker

STOP_S = 5.0
HINT = "the log lines before this one say why; start the bridge again"
PLC_TRIGGERS = (
    "this bridge has trigger: plc, but the camera does not wait for triggers: set trigger: {kind: software} for the camera in "
    "the station's configuration, or trigger: camera in the bridge's"
)
CAMERA_TRIGGERS = (
    "this bridge has trigger: camera, but the camera waits for triggers (trigger: {kind: software}): set trigger: plc in the "
    "bridge's configuration, or give the camera another trigger in the station's"
)
NO_RECIPE = (
    "the station has several recipes: the PLC must write the name of one to recipe; with modbus or opcua, it may write an "
    "empty name if any recipe will do"
)
OTHER_TRIGGER = (
    "the camera inspected a part that this bridge does not know, so the PLC gets no result for it: either another bridge or "
    "program triggers this camera (stop it), or the station's answer to a trigger was lost"
)
NOT_UTF8 = (
    "the PLC wrote a text that is not UTF-8. Bytes that cannot be read were replaced, so part_id comes back different from "
    "what the PLC wrote. Use only ASCII characters in the PLC, or encode the text as UTF-8"
)
NOT_HEARD = "the station is not heard, so it cannot change its recipe"
EMPTY_NAME = "recipe is empty: the PLC must write the name before it raises recipe_change"
WAITING_S = 5.0
"""Without a station for this long, the log says so."""
NO_HEARTBEAT = "no heartbeat from the station: check that it is running and that station.publish is its address"


def run_bridge(kind: Kind, target: Target, settings: Settings, environment: Mapping[str, str], pid: int) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code.

    Raises:
        AnosegError: The kind cannot serve, or a thread has died.
    """
    notifier = Notifier.from_environment(environment, pid=pid)
    try:
        return asyncio.run(Bridge(kind, target, settings, notifier).run())
    finally:
        notifier.close()


class Bridge:
    """Owns a handshake. Everything but `give` runs on the event loop's thread."""

    def __init__(self, kind: Kind, target: Target, settings: Settings, notifier: Notifier) -> None:
        self._kind, self._target, self._notifier = kind, target, notifier
        self._not_opened_hints = {
            ErrorCode.TRIGGER_MODE: PLC_TRIGGERS if settings.triggered else CAMERA_TRIGGERS,
            ErrorCode.RECIPE_NOT_WRITTEN: NO_RECIPE,
        }
        self._model = Handshake(settings, time.monotonic())
        self._shown = Outputs()
        self._due: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        # One line a second: a client may open and close the handshake as often as it likes.
        self._opened, self._closed = logs.Throttle("bridge.opened"), logs.Throttle("bridge.closed")
        self._not_opened = logs.Throttle("bridge.not_opened")
        self._refused = logs.Throttle("bridge.client_refused")
        self._recipe_refused = logs.Throttle("bridge.request_refused")
        self._other_trigger = logs.Throttle("bridge.other_trigger", period_s=60.0)
        self._other_triggers = 0
        self._not_utf8 = False  # the log says so already
        feed = VerdictFeed(target, self.give)
        self._requests = StationRequests(target, self.give, lambda: feed.run_id)
        self._workers: tuple[VerdictFeed | StationRequests, ...] = (feed, self._requests)

    async def run(self) -> int:
        """Serve until a signal comes.

        Raises:
            AnosegError: The kind cannot serve, or a thread has died.
        """
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._fail)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._stopping.set)
        self._kind.show(self._shown)
        await self._kind.start(self)
        where = {"place": self._kind.place, "camera": self._target.camera, "station": self._target.publish}
        if self._kind.listens:
            logs.info("bridge.listening", **where)
        else:
            logs.info("bridge.started", **where)
        self._notifier.ready(f"{'listening at' if self._kind.listens else 'client of'} {self._kind.place}")
        try:
            for worker in self._workers:
                worker.start()
            self._proceed()
            await self._watch()
        finally:
            self._notifier.stopping()
            for worker in self._workers:
                worker.stop()
            await self._kind.stop()
            if self._due is not None:
                self._due.cancel()
            await asyncio.to_thread(_join, self._workers)
        if self._failure is not None:
            raise PublishError(f"the bridge ended: {self._failure}", hint=HINT) from self._failure
        return 0

    def _fail(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take an error that nothing else has taken. It ends the bridge: a PLC must not act on what may be wrong."""
        error = context.get("exception")
        if isinstance(error, OSError):  # of a connection
            self._refused.warning(why=str(error))
            return
        logs.error("thread.died", exception=error, thread="main", what=context.get("message"))
        self._failure = error or RuntimeError(context.get("message"))
        self._stopping.set()

    def give(self, change: Change) -> None:
        """Have the handshake take an event. Any thread."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._take, change)

    def write(self, controls: Controls, *, since: float | None = None) -> None:
        """Take what the PLC has written."""
        if not self._not_utf8 and "\N{REPLACEMENT CHARACTER}" in controls.part_id + (controls.recipe or ""):
            self._not_utf8 = True
            logs.warning("bridge.text_not_utf8", part_id=controls.part_id, recipe=controls.recipe or "", hint=NOT_UTF8)
        refused = self._shown.recipe_refused
        self._take(lambda model, now: model.write(now, controls, since=since))
        if self._shown.recipe_refused and not refused:  # by the model: the station answers later
            error = NOT_HEARD if controls.recipe else EMPTY_NAME
            self._recipe_refused.warning(request="recipe", recipe=controls.recipe or "", error=error)

    def deliver(self) -> None:
        """Take note that the PLC can read a new result only from now on."""
        self._take(lambda model, now: model.deliver(now))

    def plc_lost(self) -> None:
        """Take note that the PLC is lost."""
        self._take(lambda model, now: model.plc_lost(now))

    def refresh(self) -> None:
        """Let time pass in the handshake."""
        self._take(lambda model, now: model.tick(now))

    def _take(self, change: Change) -> None:
        change(self._model, time.monotonic())
        self._proceed()

    def _proceed(self) -> None:
        """Send what the handshake wants to have sent, show its outputs, and set the time at which it goes on by itself."""
        assert self._loop is not None
        for request in self._model.take_requests():
            self._requests.send(request)
        outputs = self._model.outputs
        if outputs != self._shown:
            before, self._shown = self._shown, outputs
            self._kind.show(outputs)
            self._report(before, outputs)
        if self._model.other_triggers > self._other_triggers:
            self._other_triggers = self._model.other_triggers
            self._other_trigger.warning(camera=self._target.camera, hint=OTHER_TRIGGER)
        if self._due is not None:
            self._due.cancel()
        self._due = self._loop.call_later(max(0.0, self._model.due - time.monotonic()), self.refresh)

    def _report(self, before: Outputs, now: Outputs) -> None:
        """Log what has changed between station and PLC."""
        if now.online and not before.online:
            logs.info("bridge.station_heard", station=self._target.publish, state=now.station_state)
        elif before.online and not now.online:
            logs.warning("bridge.station_lost", station=self._target.publish, state=now.station_state or None)
        if now.enabled and not before.enabled:
            self._opened.info(camera=self._target.camera)
        elif before.enabled and not now.enabled:
            discarded = now.statistics.discarded - before.statistics.discarded
            fields: dict[str, Any] = {"camera": self._target.camera, "parts_without_result": discarded or None}
            if now.error_code:
                self._closed.warning(why=now.error_code.name.lower(), **fields)
            else:
                self._closed.info(why="the PLC lowered enable", **fields)
        elif now.error_code != before.error_code and now.error_code in self._not_opened_hints:
            hint = self._not_opened_hints[now.error_code]
            self._not_opened.warning(camera=self._target.camera, why=now.error_code.name.lower(), hint=hint)
        if (now.online, now.enabled) != (before.online, before.enabled):
            self._notifier.status(
                f"{'station heard' if now.online else 'no station'}, handshake {'open' if now.enabled else 'closed'}"
            )

    async def _watch(self) -> None:
        """Wait for a signal; meanwhile, look after the threads, and say so if no station is heard."""
        silent_since: float | None = time.monotonic()  # None: the log says so already
        while not self._stopping.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1.0)
            self._notifier.watchdog()
            for worker in self._workers:
                if not worker.alive and not self._stopping.is_set():
                    raise PublishError(f"the bridge ended: {worker.failure}", hint=HINT)
            if self._shown.online:
                silent_since = time.monotonic()
            elif silent_since is not None and time.monotonic() - silent_since > WAITING_S:
                silent_since = None
                logs.warning("bridge.waiting", station=self._target.publish, hint=self._hint)

    @property
    def _hint(self) -> str:
        if self._target.key is None:
            return f"{NO_HEARTBEAT}, and whether it asks for a key (station.key)"
        return f"{NO_HEARTBEAT}; if it refuses the key {self._target.key.name}, its log says so"


def _join(workers: tuple[Worker, ...]) -> None:
    end = time.monotonic() + STOP_S
    for worker in workers:
        worker.join(end - time.monotonic())
