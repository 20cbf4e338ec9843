"""The published headers: what each topic's JSON says. The JSON Schema that `anosegd schema` prints is made from these types.

Multipart messages `[topic, header, payload?]`: `verdict.<camera>`, `mask.<camera>` (payload: PNG), `state`. A subscription is a
prefix: `verdict.top` also gets `verdict.top2`, so a subscriber to one camera of several compares the whole topic.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Literal

import msgspec

from anoseg_engines.judgement.judge import Defect
from anoseg_engines.placement import Region

Outcome = Literal["PASS", "FAIL", "UNKNOWN"]
Reason = Literal[
    "unreadable",
    "overrun",
    "repeated_frame",
    "image_size",
    "image_quality",
    "review",
    "camera_lost",
    "deadline",
    "engine",
    "region",
    "journal",
    "shutdown",
    "restart",
]
"""Why a part is neither PASS nor FAIL. unreadable: its file does not decode. overrun: parts came too fast. repeated_frame,
image_size: a live camera gave the same frame once more, or one of another size than before. image_quality: too dark, too bright
or blurred. review: it was inspected, and a person is to look. camera_lost: the camera gave no frame for it. deadline: the
verdict would have been late. engine: it failed. region: the configured region reaches beyond the image. journal: the verdict
could not be committed. shutdown: the daemon stopped before it was its turn. restart: the daemon ended in a crash with the
trigger accepted."""

StationState = Literal["Preoperational", "Halted", "Initialized", "Ready", "SingleExecution", "ContinuousExecution", "Error"]
"""OPC 40100-1 (OPC UA Machine Vision), clause "VisionStateMachine"."""

CameraState = Literal["starting", "running", "lost", "finished", "stopped"]


class EngineName(msgspec.Struct, frozen=True, kw_only=True):
    """name, version: the bundle's product and version. digest: SHA-256 of its manifest. runtime: what really runs."""

    name: str
    version: int
    digest: str
    runtime: str


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds. capture: software trigger to the frame. wait: capture to start of inspection. inspect: placement, network
    and judgement. inference: the network alone. total: software trigger, else capture, to sending. None where that step did not
    take place."""

    capture: float | None = None
    wait: float | None = None
    inspect: float | None = None
    inference: float | None = None
    total: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Topic `verdict.<camera>`, one for each part, in the order of capture.

    seq: one count a station. journal_id, seq: the verdict's identity. sequence: counts the camera's parts in this run, from 1,
    passed-over ones too. triggered_at (of a software trigger), captured_at (None where nothing was), committed_at: UTC,
    ISO 8601.
    score, threshold: FAIL is score ≥ threshold; None where the part was not inspected, threshold also where the camera's region
    rules decided (FAIL: there are defects). reason, detail: why UNKNOWN.
    defects: in camera pixels. source: the file the part came from. durable: whether it lies in a journal.
    """

    schema: Literal["anoseg.verdict/1"] = "anoseg.verdict/1"
    station: str
    journal_id: str
    seq: int
    run_id: str
    camera: str
    part_id: str
    sequence: int
    triggered_at: str | None = None
    captured_at: str | None
    committed_at: str
    outcome: Outcome
    reason: Reason | None = None
    detail: str | None = None
    score: float | None = None
    threshold: float | None = None
    defects: tuple[Defect, ...] = ()
    recipe: str
    engine: EngineName
    source: str | None = None
    durable: bool
    timings_ms: Timings


class Mask(msgspec.Struct, frozen=True, kw_only=True):
    """Topic `mask.<camera>`; payload: the region's anomaly map as an 8-bit grey PNG, value / 255 = 0 normal … 1 anomalous.

    seq: of the verdict it belongs to. scale_x, scale_y: map pixels per camera pixel.
    """

    schema: Literal["anoseg.mask/1"] = "anoseg.mask/1"
    station: str
    journal_id: str
    seq: int
    camera: str
    part_id: str
    region: Region
    width: int
    height: int
    scale_x: float
    scale_y: float
    encoding: Literal["png"] = "png"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Verdicts sent since the daemon started, by outcome; late: results that came after their part was closed."""

    passed: int = 0
    failed: int = 0
    unknown: int = 0
    late: int = 0


class CameraHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One camera. frames: captured. dropped: passed over under policy latest. empty: without a part. overruns: parts that found
    no room under policy every. restarts: of its capture process. last_error: the latest, also when it is over. note: what an
    operator should know of how it is set up."""

    state: CameraState
    source: str
    frames: int = 0
    dropped: int = 0
    overruns: int = 0
    empty: int = 0
    restarts: int = 0
    last_error: str | None = None
    note: str | None = None
    counts: Counts = Counts()


class JournalHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The journal. working: the last commit succeeded. first_kept, last_committed: numbers. waiting: verdicts not committed
    yet. last_error: the latest, also when it is over."""

    working: bool
    first_kept: int
    last_committed: int
    size_mb: float
    waiting: int
    failures: int
    last_error: str | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Topic `state`: every second (the heartbeat) and at every change. last_seq: 0 before the first verdict.

    journal: None without one. control: endpoint of the control socket, None without one.
    """

    schema: Literal["anoseg.state/1"] = "anoseg.state/1"
    station: str
    journal_id: str
    run_id: str
    version: str
    at: str
    state: StationState
    detail: str | None = None
    uptime_s: float
    last_seq: int
    counts: Counts
    masks_dropped: int
    engine: EngineName
    journal: JournalHealth | None = None
    control: str | None = None
    cameras: dict[str, CameraHealth]


encode = msgspec.json.Encoder().encode


def schemas() -> dict[str, Any]:
    """JSON Schema of every header, by topic."""
    return {"verdict": _schema(Verdict), "mask": _schema(Mask), "state": _schema(State)}


def utc(wall_ns: int) -> str:
    """Unix time in ns as ISO 8601, UTC, microseconds."""
    seconds, ns = divmod(wall_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=ns // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}
