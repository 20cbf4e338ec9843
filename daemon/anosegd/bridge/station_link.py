"""Connects a bridge to its station, on two threads: "verdicts" receives what it publishes, "requests" sends what the PLC wants.

Both hand everything to the event loop's thread, which owns the handshake. They wait for a station that is down.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

from anosegd import logs
from anosegd.bridge.config import Target
from anosegd.bridge.events import RecipeRequest, Request, TriggerRequest
from anosegd.bridge.handshake import Handshake
from anosegd.bridge.messages import checksum, heartbeat_of, judged_of
from anosegd.client import Client, ClientError, NoAnswerError, RefusedError
from anosegd.worker import Worker

Change = Callable[[Handshake, float], None]
"""Tells the handshake about an event, with its time."""
Give = Callable[[Change], None]
"""Hands a change to the event loop's thread. Any thread may call it."""

RETRY_S = 0.5
ANSWER_S = 0.5
"""The shortest time to wait for the answer to a trigger."""
RECIPE_S = 900.0
"""How long a change of the recipe may take: a TensorRT plan may have to be built for it."""
STATUS_S = 2.0
PROBE_S = 0.5
"""The pause between two questions to a station that does not answer."""
SAME_VERSION = "the bridge cannot read this message: install the same version of AnoSeg Edge for station and bridge"


class _StoppedError(Exception):
    """The thread was asked to stop."""


class _RestartedError(ClientError):
    """The station has restarted: it will not answer what an earlier run was asked."""


class VerdictFeed(Worker):
    """Receives heartbeats and verdicts. It has no journal to ask: a verdict that is late must not drive anything.

    Attributes:
        run_id: The run of the station that was heard last; None before the first. Any thread may read it.
    """

    def __init__(self, target: Target, give: Give) -> None:
        super().__init__("verdicts")
        self.run_id: str | None = None
        self._target, self._give = target, give
        self._settings = 0
        self._too_long: set[str] = set()
        self._stopping = threading.Event()
        self._strange = logs.Throttle("bridge.not_understood", period_s=60.0)

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopping.set()

    def work(self) -> None:
        """Receive until asked to stop."""
        target = self._target
        while not self._stopping.is_set():
            try:
                with Client(
                    target.publish,
                    None,
                    key=target.key,
                    on_state=self._state,
                    on_wait=self._check,
                ) as client:
                    for verdict in client.follow():
                        self._check()
                        self._verdict(verdict, replayed=verdict.replayed)
            except _StoppedError:
                return
            except ClientError:
                self._stopping.wait(RETRY_S)

    def _state(self, state: dict[str, Any]) -> None:
        try:
            beat = heartbeat_of(state, self._target.camera)
            self._settings = checksum(state.get("settings"))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            self._strange.warning(topic="state", error=f"{type(error).__name__} {error}", hint=SAME_VERSION)
            return
        if self.run_id != beat.run_id and self._target.camera not in state["cameras"]:
            cameras = ",".join(state["cameras"])
            hint = "set camera in the bridge's configuration to one that the station has"
            logs.warning("bridge.no_such_camera", camera=self._target.camera, cameras=cameras, hint=hint)
        self.run_id = beat.run_id
        self._check_names(state.get("recipes") or ())
        self._give(lambda model, now: model.heartbeat(now, beat))

    def _check_names(self, recipes: Iterable[str]) -> None:
        """Say which recipes have names that a PLC cannot read or write whole, once each."""
        limit = self._target.recipe_length
        for name in recipes:
            length = len(name.encode())
            if limit is not None and length > limit and name not in self._too_long:
                self._too_long.add(name)
                hint = f"set recipe_length to {length + length % 2} or more, or give the recipe a shorter name"
                if not self._target.recipe_length_can_be_set:
                    hint = "give the recipe a shorter name"
                logs.warning("bridge.recipe_name_too_long", recipe=name, bytes=length, most_bytes=limit, hint=hint)

    def _verdict(self, verdict: dict[str, Any], *, replayed: bool) -> None:
        try:
            if verdict["camera"] != self._target.camera:
                seq = int(verdict["seq"])
                self._give(lambda model, now: model.other_verdict(now, seq))
                return
            judged = judged_of(verdict, replayed=replayed, settings=self._settings)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            self._strange.warning(topic="verdict", error=f"{type(error).__name__} {error}", hint=SAME_VERSION)
            self._give(lambda model, now: model.verdict_lost(now))
            return
        self._give(lambda model, now: model.verdict(now, judged))

    def _check(self) -> None:
        self.answer()
        if self._stopping.is_set():
            raise _StoppedError


class StationRequests(Worker):
    """Sends triggers and recipe changes, one after another.

    Args:
        target: The station and its camera.
        give: Takes the answers.
        run_id: Returns the run of the station that was heard last.
    """

    def __init__(self, target: Target, give: Give, run_id: Callable[[], str | None]) -> None:
        super().__init__("requests")
        self._target, self._give, self._run_id = target, give, run_id
        self._queue: queue.SimpleQueue[tuple[float, Request] | None] = queue.SimpleQueue()
        self._name = f"bridge-{uuid4().hex[:12]}"
        self._stopping = threading.Event()
        self._refused = logs.Throttle("bridge.request_refused")
        self._answers = True

    def send(self, request: Request) -> None:
        """Have a request sent. Any thread."""
        self._queue.put((time.monotonic(), request))

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopping.set()
        self._queue.put(None)

    def work(self) -> None:
        """Send until asked to stop."""
        with contextlib.suppress(_StoppedError):
            self._work()

    def _work(self) -> None:
        target = self._target
        with self._client(max(ANSWER_S, target.window_s)) as client:
            while True:
                try:
                    item = self._queue.get(timeout=None if self._answers else PROBE_S)
                except queue.Empty:
                    self._probe()
                    continue
                if item is None:
                    return
                asked_at, request = item
                if isinstance(request, RecipeRequest):
                    self._change_recipe(request)
                elif time.monotonic() - asked_at > target.window_s:
                    self._refuse(
                        request,
                        "not sent to the station: it waited for longer than result_window_ms, and its part has moved on",
                    )
                else:
                    self._trigger(client, request, asked_at)

    def _client(self, request_timeout_s: float, check: Callable[[], None] | None = None) -> Client:
        target = self._target
        return Client(
            target.publish,
            target.control,
            key=target.key,
            on_wait=check or self._check,
            request_timeout_s=request_timeout_s,
        )

    def _check(self) -> None:
        if self._stopping.is_set():
            raise _StoppedError

    def _probe(self) -> None:
        """Ask a station that did not answer whether it does now."""
        try:
            with self._client(STATUS_S) as client:
                client.status()
        except RefusedError:
            pass  # a refusal is an answer
        except ClientError:
            return
        self._note_answer(True)

    def _note_answer(self, answers: bool) -> None:
        """Report it if the station's control socket has begun to answer, or no longer answers."""
        if answers == self._answers:
            return
        self._answers = answers
        if answers:
            logs.info("bridge.control_answers", control=self._target.control)
        else:
            hint = "trigger_ready stays low until the station answers; check station.control in the bridge's configuration"
            logs.warning("bridge.control_silent", control=self._target.control, hint=hint)
        self._give(lambda model, now: model.control_answers(now, answers=answers))

    def _trigger(self, client: Client, request: TriggerRequest, asked_at: float) -> None:
        number = request.number
        try:
            answer = client.trigger(
                self._target.camera,
                part_id=request.part_id or None,
                request_id=f"{self._name}-{number}",
                recipe=request.recipe or None,
            )
            part_id, triggered_at = str(answer["part_id"]), str(answer["triggered_at"])
        except (ClientError, KeyError) as error:
            self._refuse(request, error)
            self._note_answer(not isinstance(error, NoAnswerError))
            return
        self._note_answer(True)
        if (took_s := time.monotonic() - asked_at) > self._target.window_s:
            late = f"the station's answer came after {took_s * 1000:.0f} ms, which is later than result_window_ms"
            self._refused.warning(request="trigger", part_id=request.part_id, error=late)
        self._give(lambda model, now: model.trigger_answered(now, number, part_id, triggered_at))

    def _refuse(self, request: TriggerRequest, error: object) -> None:
        self._refused.warning(request="trigger", part_id=request.part_id, error=error)
        self._give(lambda model, now: model.trigger_refused(now, request.number))

    def _change_recipe(self, request: RecipeRequest) -> None:
        asked = self._run_id()

        def check() -> None:
            self._check()
            if self._run_id() != asked:
                raise _RestartedError("the station has restarted")

        accepted = False
        try:
            with self._client(RECIPE_S, check) as client:
                client.recipe(request.recipe, who="PLC")
            accepted = True
        except (NoAnswerError, _RestartedError) as error:
            in_force = self._recipe_in_force()
            accepted = in_force == request.recipe
            self._refused.warning(request="recipe", recipe=request.recipe, error=error, in_force=in_force or "unknown")
        except ClientError as error:
            self._refused.warning(request="recipe", recipe=request.recipe, error=_in_words(error))
        self._give(lambda model, now: model.recipe_answered(now, request.number, accepted=accepted))

    def _recipe_in_force(self) -> str | None:
        """Ask the station for its recipe; None if it does not say."""
        try:
            with self._client(STATUS_S) as client:
                return str(client.status()["recipe"])
        except (ClientError, KeyError):
            return None


def _in_words(error: ClientError) -> str:
    return error.message if isinstance(error, RefusedError) else str(error)
