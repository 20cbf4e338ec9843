"""What the bridge makes of a recipe change that the station does not answer."""

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq
from support.anosegd_line import wait_until

from anosegd.bridge import station_link
from anosegd.bridge.config import Target
from anosegd.bridge.handshake import Handshake, RecipeRequest
from anosegd.bridge.station_link import StationRequests


class SilentStation:
    """Answers `status`, and nothing else. `recipe` is in force; None answers not even that."""

    def __init__(self) -> None:
        self.recipe: str | None = "bolt"
        self.asked: list[str] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            if not self._socket.poll(20):
                continue
            who, body = self._socket.recv_multipart()
            request = json.loads(body)
            self.asked.append(request["op"])
            if request["op"] == "status" and self.recipe is not None:
                answer = {"id": request["id"], "ok": True, "state": {"recipe": self.recipe}}
                self._socket.send_multipart([who, json.dumps(answer).encode()])


class Answers(Handshake):
    """Keeps what the model would learn."""

    def __init__(self) -> None:
        self.all: list[bool] = []

    def recipe_answered(self, now: float, number: int, *, accepted: bool) -> None:
        self.all.append(accepted)


@pytest.fixture
def station() -> Iterator[SilentStation]:
    station = SilentStation()
    yield station
    station.stop()


Start = Callable[[Callable[[], str]], Answers]


@pytest.fixture
def start(station: SilentStation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Ask for the recipe nut through a bridge's thread."""
    monkeypatch.setattr(station_link, "STATUS_S", 2.0)
    started: list[StationRequests] = []

    def start(run_id: Callable[[], str]) -> Answers:
        answers = Answers()
        target = Target(camera="eye", publish="tcp://127.0.0.1:9", control=station.endpoint, key=None, window_s=0.2)
        requests = StationRequests(target, lambda change: change(answers, time.monotonic()), run_id)
        started.append(requests)
        requests.start()
        requests.send(RecipeRequest(1, "nut"))
        return answers

    yield start
    for requests in started:
        requests.stop()
        requests.join(5.0)


@pytest.mark.parametrize(("in_force", "accepted"), [("nut", True), ("bolt", False), (None, False)])
def test_without_an_answer_the_recipe_in_force_counts(
    station: SilentStation, start: Start, monkeypatch: pytest.MonkeyPatch, in_force: str | None, accepted: bool
) -> None:
    """The change may have been made, though its answer was lost."""
    monkeypatch.setattr(station_link, "RECIPE_S", 0.3)
    station.recipe = in_force
    answers = start(lambda: "run")
    wait_until(lambda: bool(answers.all), "the change has ended")
    assert answers.all == [accepted]
    assert station.asked == ["recipe", "status"]


def test_a_restarted_station_is_asked_for_its_recipe_at_once(station: SilentStation, start: Start) -> None:
    """Nobody waits for a quarter of an hour for a run that has ended; but before, nothing is said."""
    runs = ["run"]
    answers = start(lambda: runs[-1])
    wait_until(lambda: station.asked == ["recipe"], "the station is asked")
    time.sleep(0.3)
    assert answers.all == []
    station.recipe = "nut"
    runs.append("another")
    wait_until(lambda: bool(answers.all), "the change has ended")
    assert answers.all == [True]


def test_the_bridge_waits_as_long_as_a_change_may_take() -> None:
    """docs/wire.md: 15 minutes, where a TensorRT plan may have to be built."""
    assert station_link.RECIPE_S == 15 * 60
