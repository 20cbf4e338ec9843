"""Defines the published headers: the JSON of each topic. `anosegd schema` prints a JSON Schema of these types.

Messages are multipart, `[topic, header, payload?]`, with the topics `verdict.<camera>`, `mask.<camera>` (payload: PNG),
`image.<camera>` (payload: JPEG) and `state`. A subscription is a prefix: `verdict.top` also receives `verdict.top2`. A
subscriber to one of several cameras must compare the whole topic.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Literal

import msgspec

from anoseg_engines.judgement import Defect
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
    "paused",
    "recipe",
]
"""Why a part is neither PASS nor FAIL:

unreadable      its image cannot be decoded
overrun         parts arrived faster than they are inspected
repeated_frame  the camera has frozen, or a triggered part's frame is equal to the part's before
image_size      a live camera gave a frame of another size than before
image_quality   too dark, too bright or blurred
review          inspected; a person must look at the part
camera_lost     the camera gave no frame for the trigger
deadline        the verdict was not ready in time
engine          the engine failed
region          the configured region reaches beyond the image
journal         the verdict could not be committed
shutdown        the daemon stopped before the part was inspected
restart         the daemon crashed after it had accepted the trigger
paused          a person has paused the camera
recipe          its trigger asked for another recipe than the one in force, or its recipe's engine was no longer loaded
"""

ThresholdOrigin = Literal["calibration", "configuration", "person"]
"""Who chose a threshold: the bundle's calibration, `score_threshold` in the configuration, or a person by `set_threshold`."""

StationState = Literal["Preoperational", "Halted", "Initialized", "Ready", "SingleExecution", "ContinuousExecution", "Error"]
"""OPC 40100-1 (OPC UA Machine Vision), clause "VisionStateMachine"."""

CameraState = Literal["starting", "running", "lost", "finished", "stopped"]


class EngineName(msgspec.Struct, frozen=True, kw_only=True):
    """Names the engine that inspects.

    Attributes:
        name, version: The bundle's product and version.
        digest: SHA-256 of the bundle's manifest.
        runtime: The runtime in use.
    """

    name: str
    version: int
    digest: str
    runtime: str


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Gives durations in milliseconds. A duration is None if its step did not take place.

    Attributes:
        capture: From the software trigger to the frame.
        wait: From capture to the start of inspection.
        inspect: Placement, network and judgement.
        inference: The network alone.
        total: From the software trigger, else from capture, to the finished verdict. Its commit and the sending come after.
    """

    capture: float | None = None
    wait: float | None = None
    inspect: float | None = None
    inference: float | None = None
    total: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Topic `verdict.<camera>`: one for each part of a camera, in the order of capture. Times are UTC in ISO 8601.

    Attributes:
        station: Name of the station.
        journal_id, seq: The verdict's identity. A station counts `seq` across all cameras.
        run_id: Identity of this run of the daemon.
        camera: Name of the camera.
        part_id: The part's name. It is a label: two parts may have the same one.
        sequence: Counts the camera's parts in this run from 1, including dropped ones.
        triggered_at: Time of the software trigger; None without one.
        captured_at: Time of capture, by the camera's own time stamp where it has one, else `read_at`; None if nothing was
            captured.
        read_at: When the daemon received the frame; None if nothing was captured.
        committed_at: Time of the commit.
        outcome: PASS, FAIL or UNKNOWN.
        reason, detail: Why the outcome is UNKNOWN.
        score: Image score; None if the part was not inspected.
        threshold: FAIL means score ≥ threshold. None if the part was not inspected, or if region rules decided; then FAIL means
            that there are defects.
        threshold_from: Who chose the threshold; None where `threshold` is None.
        defects: The defects found, in camera pixels. A PASS lists none.
        recipe: The recipe that judged the part, or that was in force when the part began.
        recipe_asked: The recipe that its trigger asked for; None if it asked for none.
        settings: Checksum of the settings that judged the part, as `State.settings`; None if it was not judged.
        engine: The engine that inspects.
        source: The file from which the part was read.
        durable: Whether the verdict is in the journal.
        timings_ms: Durations of the steps.
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
    read_at: str | None = None
    committed_at: str
    outcome: Outcome
    reason: Reason | None = None
    detail: str | None = None
    score: float | None = None
    threshold: float | None = None
    threshold_from: ThresholdOrigin | None = None
    defects: tuple[Defect, ...] = ()
    recipe: str
    recipe_asked: str | None = None
    settings: str | None = None
    engine: EngineName
    source: str | None = None
    durable: bool
    timings_ms: Timings


class Mask(msgspec.Struct, frozen=True, kw_only=True):
    """Topic `mask.<camera>`. The payload is the region's anomaly map as an 8-bit grey PNG: 0 is normal, 255 anomalous.

    Attributes:
        station: Name of the station.
        journal_id, seq: The verdict it belongs to.
        camera: Name of the camera.
        part_id: The part's name.
        region: The part's place in camera pixels.
        width, height: Size of the map in pixels.
        scale_x, scale_y: Map pixels per camera pixel.
        encoding: Format of the payload.
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


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """Topic `image.<camera>`. The payload is the picture of the judged part's region, as JPEG. Sent while somebody subscribes.

    Attributes:
        station: Name of the station.
        journal_id, seq: The verdict it belongs to.
        camera: Name of the camera.
        part_id: The part's name.
        region: The part's place in camera pixels.
        width, height: Size of the picture in pixels.
        scale_x, scale_y: Its pixels per camera pixel.
        encoding: Format of the payload.
    """

    schema: Literal["anoseg.image/1"] = "anoseg.image/1"
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
    encoding: Literal["jpeg"] = "jpeg"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts the verdicts sent since the daemon started.

    Attributes:
        passed, failed, unknown: By outcome.
        late: Results that arrived after their part was closed.
    """

    passed: int = 0
    failed: int = 0
    unknown: int = 0
    late: int = 0


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Counts the verdicts in the journal, by outcome."""

    passed: int = 0
    failed: int = 0
    unknown: int = 0


class ThresholdInUse(msgspec.Struct, frozen=True, kw_only=True):
    """Describes the score threshold of a camera.

    Attributes:
        value: A part with this score or more is FAIL.
        origin: Who chose it.
        calibrated: The bundle's calibrated threshold, for which alone the promise about rejected good parts holds.
        promised: Whether the calibration promises anything about them.
        who, why, at: Who set it by `set_threshold`, why and when (UTC); None for another origin.
    """

    value: float
    origin: ThresholdOrigin
    calibrated: float
    promised: bool = True
    who: str | None = None
    why: str | None = None
    at: str | None = None


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Describes a camera's pause. Every part meanwhile is UNKNOWN: paused.

    Attributes:
        since, until: When it began and will end by itself, UTC in ISO 8601.
        left_s: Seconds until it ends.
        who, why: Who asked for it, and the reason given, which may be empty.
    """

    since: str
    until: str
    left_s: float
    who: str
    why: str = ""


class CameraHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Describes the state of one camera.

    Attributes:
        state: Whether it delivers frames.
        source: What it is.
        frames: Frames captured.
        dropped: Frames dropped under policy `latest`.
        overruns: Parts that found no room under policy `every`.
        empty: Frames without a part.
        repeated: Frames that equal the one of the part before and are no new part.
        restarts: Restarts of its capture process.
        last_error: The latest error, even if it is over.
        note: A fact about its settings or its pictures that an operator should know.
        counts: Its verdicts since the daemon started.
        stored: Its verdicts in the journal; None without a journal.
        threshold: Its score threshold; None if region rules decide.
        pause: Its pause; None if it is not paused.
        recipe: The recipe in its verdicts.
        trigger: What begins a part: `software` (a request), `interval`, `hardware` (the camera's input), or `free`
            (every frame).
    """

    state: CameraState
    source: str
    frames: int = 0
    dropped: int = 0
    overruns: int = 0
    empty: int = 0
    repeated: int = 0
    restarts: int = 0
    last_error: str | None = None
    note: str | None = None
    counts: Counts = Counts()
    stored: Stored | None = None
    threshold: ThresholdInUse | None = None
    pause: Pause | None = None
    recipe: str = ""
    trigger: str = "free"


class JournalHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Describes the state of the journal.

    Attributes:
        working: Whether the last commit succeeded and the disk does not hang.
        first_kept, last_committed: Numbers of the oldest and newest verdict.
        since: When the oldest verdict was committed, UTC in ISO 8601; None for an empty journal.
        stored: The verdicts of all cameras in it.
        size_mb: Size of its files.
        waiting: Verdicts that are not committed yet.
        failures: Failed commits.
        last_error: The latest error, even if it is over.
    """

    working: bool
    first_kept: int
    last_committed: int
    since: str | None = None
    stored: Stored = Stored()
    size_mb: float
    waiting: int
    failures: int
    last_error: str | None = None


class EvidenceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Describes the state of the evidence.

    Attributes:
        working: Whether the last use of the folder succeeded. A part that is dropped because too many came does not count.
        kept: Parts stored since the daemon started.
        dropped: Parts that were to be kept and were not: too many came, or the disk did not take them.
        size_mb: Size of the parts' files.
        last_error: The latest error, even if it is over.
    """

    working: bool
    kept: int = 0
    dropped: int = 0
    size_mb: float = 0.0
    last_error: str | None = None


RecipeState = Literal["in_force", "warm", "cold", "waiting", "refused"]
"""What a switch to a recipe would find:

in_force  it inspects
warm      its engine is loaded: a switch takes milliseconds
cold      its engine has passed the self-test on this machine, but is not loaded: a switch takes seconds
waiting   its engine has not been tested yet
refused   its bundle cannot be used: a switch tries again
"""


class RecipeHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Describes one recipe.

    Attributes:
        state: What a switch to it would find.
        bundle: Product and version, or the configured path if it was not loaded yet.
        error: Why it is refused; None if it is not.
    """

    state: RecipeState
    bundle: str
    error: str | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Topic `state`: the heartbeat, sent every second and at every change.

    Attributes:
        station: Name of the station.
        journal_id: Identity of the journal.
        run_id: Identity of this run of the daemon.
        version: Version of the daemon.
        at: Time, UTC in ISO 8601.
        state, detail: The state in the words of OPC 40100-1, and an explanation.
        reload_error: Why the last reload did not take effect; None if it did.
        uptime_s: Seconds since the start, at the time `at`. A clock that is set does not change it.
        last_seq: Number of the last verdict sent; 0 before the first.
        counts: Verdicts of all cameras.
        masks_dropped: Anomaly maps that were not published for lack of time, or because too many waited for slow subscribers.
        engine: The engine that inspects.
        rollback_to: Product and version of the bundle that a rollback would return to; None if no other bundle has inspected.
        recipe: The recipe in force. Without `recipes` in the configuration, the names that the cameras have.
        recipes: All recipes by name; empty if there is only one.
        settings: SHA-256 of everything that decides about a part: the cameras' settings without passwords, the thresholds and
            the engine's digest.
        journal: None for a station without a journal.
        evidence: None for a station that keeps no evidence.
        control: Endpoint of the control socket; None without one.
        cameras: The cameras by name.
    """

    schema: Literal["anoseg.state/1"] = "anoseg.state/1"
    station: str
    journal_id: str
    run_id: str
    version: str
    at: str
    state: StationState
    detail: str | None = None
    reload_error: str | None = None
    uptime_s: float
    last_seq: int
    counts: Counts
    masks_dropped: int
    engine: EngineName
    rollback_to: str | None = None
    recipe: str = ""
    recipes: dict[str, RecipeHealth] = {}
    settings: str = ""
    journal: JournalHealth | None = None
    evidence: EvidenceHealth | None = None
    control: str | None = None
    cameras: dict[str, CameraHealth]


encode = msgspec.json.Encoder().encode


def reason_of(header: bytes) -> str | None:
    """Return why the outcome of a verdict's header is UNKNOWN; None for another outcome."""
    return msgspec.json.decode(header, type=_Reason).reason


def schemas() -> dict[str, Any]:
    """Return the JSON Schema of every header, by topic."""
    return {"verdict": _schema(Verdict), "mask": _schema(Mask), "image": _schema(Image), "state": _schema(State)}


def utc(wall_ns: int) -> str:
    """Format Unix time in ns as ISO 8601: UTC, microseconds."""
    seconds, ns = divmod(wall_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=ns // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


class _Reason(msgspec.Struct, frozen=True):
    reason: str | None = None


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}
