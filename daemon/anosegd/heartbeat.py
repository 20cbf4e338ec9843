"""Builds the heartbeat, which is the station's state message: cameras, journal, engine and counts.

The heartbeat only reads other threads' data. `describe` runs on the publisher's thread, `state` on any thread.
"""

from __future__ import annotations

import time

from anoseg_engines.bundle import Bundle
from anoseg_engines.passwords import mask_passwords
from anoseg_engines.version import installed_version
from anoseg_engines.words import counted
from anosegd import wire
from anosegd.cameras import CameraSet, CameraSupervisor
from anosegd.config import Config
from anosegd.evidence import EvidenceKeeper
from anosegd.inspection.inspector import Inspector
from anosegd.inspection.loaded_engines import engine_name
from anosegd.inspection.pauses import Pauses
from anosegd.inspection.rule_calibration import rules_note
from anosegd.inspection.score_thresholds import ScoreThresholds, threshold_note
from anosegd.inspection.settings_in_force import SettingsInForce
from anosegd.inspection.swap import Swaps
from anosegd.journal import Journal, Tally
from anosegd.publish import Identity, Publisher
from anosegd.recipes import RecipeSwitches

SILENT_S = 10.0
"""A thread that has not answered for this long hangs."""
TOGETHER_S = 0.01
"""Two clocks count as read at one moment if this time at most is between."""


class Heartbeat:
    """Describes a station. The main thread sets the attributes.

    Attributes:
        config: The running configuration.
        bundle: The configuration's bundle, which the next start would use.
        notice: A fact about the last reload that an operator should know.
        stopping: Whether shutdown has begun.
    """

    def __init__(
        self,
        config: Config,
        bundle: Bundle,
        identity: Identity,
        *,
        journal: Journal | None,
        publisher: Publisher,
        inspector: Inspector,
        swaps: Swaps,
        recipes: RecipeSwitches,
        cameras: CameraSet,
        thresholds: ScoreThresholds,
        pauses: Pauses,
        evidence: EvidenceKeeper | None,
        notice: str | None,
    ) -> None:
        self.config, self.bundle, self.notice, self.stopping = config, bundle, notice, False
        self.version = installed_version()
        self._identity, self._journal, self._publisher = identity, journal, publisher
        self._inspector, self._swaps, self._cameras, self._thresholds = inspector, swaps, cameras, thresholds
        self._evidence, self._pauses, self._recipes = evidence, pauses, recipes
        self._settings = SettingsInForce(thresholds)
        self._started = time.monotonic()

    def describe(self) -> wire.State:
        """Return the whole heartbeat."""
        state, detail = self.state()
        wall_ns, monotonic_s = _both_clocks()
        return wire.State(
            station=self.config.station,
            journal_id=self._journal.journal_id if self._journal else self._identity.journal_id,
            run_id=self._identity.run_id,
            version=self.version,
            at=wire.utc(wall_ns),
            state=state,
            detail=_masked(detail),
            reload_error=_masked(self.notice),
            uptime_s=round(monotonic_s - self._started, 3),
            last_seq=self._publisher.last_seq,
            counts=self.counts(),
            masks_dropped=self._publisher.masks_dropped,
            engine=self._inspector.engine or engine_name(self.bundle, "not loaded yet"),
            rollback_to=self._swaps.rollback_to,
            recipe=self._recipes.in_force.name,
            recipes=self._recipes.describe(),
            settings=self._settings.of(self._recipes.in_force, self._swaps.bundle).checksum,
            journal=self._journal_health(),
            evidence=self._evidence_health(),
            control=self.config.control.endpoint if self.config.control else None,
            cameras={camera.name: self._camera_health(camera) for camera in self._cameras},
        )

    def state(self) -> tuple[wire.StationState, str | None]:
        """Return the state in the words of OPC 40100-1, and a detail for the operator."""
        if self.stopping:
            return "Halted", None
        if self._inspector.engine is None:
            return "Preoperational", "the engine is being loaded and tested"
        if self._inspector.silent_s > SILENT_S:
            return "Error", f"the inspector has not answered for {self._inspector.silent_s:.0f} s"
        if self._inspector.alarm is not None:
            return "Error", f"the golden images fail the self-test: {self._inspector.alarm}"
        if self._journal is not None and (hang := self._journal.hang) is not None:
            return "Error", f"verdicts cannot be stored: {hang}"
        if self._journal is not None and not self._journal.stats().working:
            return "Error", "verdicts cannot be stored: the journal does not work"
        states = {camera.status.state for camera in self._cameras}
        notice = self.notice or self._swap_notice() or self.bundle.passed_over or self._evidence_notice()
        if "running" in states:
            paused = [camera.name for camera in self._cameras if self._pauses.of(camera.name) is not None]
            if not paused:
                return "ContinuousExecution", notice
            all_paused = len(paused) == len(self._cameras.all)
            words = f"paused: {'every part' if all_paused else 'every part of ' + ', '.join(paused)} is UNKNOWN"
            return "Ready" if all_paused else "ContinuousExecution", notice or words
        if "starting" in states:
            return "Initialized", notice
        if states == {"finished"}:
            return "Ready", notice or "every file and folder has been read to its end"
        return "Error", "no camera gives images"

    def summary(self) -> str:
        """One line for `systemctl status`."""
        state, detail = self.state()
        running = sum(camera.status.state == "running" for camera in self._cameras)
        words = f"{state}{f' ({detail})' if detail else ''}"
        counts = self.counts()
        sent = counts.passed + counts.failed + counts.unknown
        return f"{words}, {counted(sent, 'verdict')} sent, {running}/{len(self._cameras.all)} cameras"

    def counts(self) -> wire.Counts:
        """Verdicts of all cameras by outcome."""
        cameras = [counts.published for counts in self._publisher.counts.values()]
        return wire.Counts(
            passed=sum(counts.passed for counts in cameras),
            failed=sum(counts.failed for counts in cameras),
            unknown=sum(counts.unknown for counts in cameras),
            late=sum(counts.late for counts in cameras),
        )

    def _swap_notice(self) -> str | None:
        if self._swaps.bundle.digest == self.bundle.digest:
            return None
        now, configured = self._swaps.bundle.label, self.bundle.label
        return f"{now} since a swap or a rollback; the next start uses {configured} from the configuration"

    def _evidence_health(self) -> wire.EvidenceHealth | None:
        return None if self._evidence is None else self._evidence.health

    def _evidence_notice(self) -> str | None:
        health = self._evidence_health()
        return None if health is None or health.working else f"no pictures of parts are kept: {health.last_error}"

    def _journal_health(self) -> wire.JournalHealth | None:
        if self._journal is None:
            return None
        stats = self._journal.stats()
        return wire.JournalHealth(
            working=stats.working,
            first_kept=stats.first_kept,
            last_committed=stats.last_committed,
            since=None if stats.stored.since_ns is None else wire.utc(stats.stored.since_ns),
            stored=_stored(stats.stored),
            size_mb=round(stats.size_bytes / 1e6, 3),
            waiting=stats.waiting,
            failures=stats.failures,
            last_error=_masked(stats.last_error),
        )

    def _camera_health(self, camera: CameraSupervisor) -> wire.CameraHealth:
        status, counts = camera.status, self._publisher.counts[camera.name]
        threshold = self._thresholds.of(camera.name, camera.config, self._swaps.bundle, camera.in_force.recipe.key)
        pause = self._pauses.of(camera.name)
        notes = [*status.remarks, rules_note(camera.config, self._swaps.bundle, status.size), threshold_note(threshold)]
        return wire.CameraHealth(
            state=status.state,
            source=status.source,
            frames=status.frames,
            dropped=status.lost + counts.dropped,
            overruns=counts.overruns,
            empty=status.empty,
            repeated=status.repeated,
            restarts=status.restarts,
            last_error=_masked(status.last_error),
            note="; ".join(note for note in notes if note) or None,
            counts=counts.published,
            stored=None if self._journal is None else _stored(self._journal.stats().stored, camera.name),
            threshold=threshold,
            pause=None if pause is None else pause.shown,
            recipe=camera.config.recipe,
            trigger=str(type(camera.config.trigger).__struct_config__.tag),
        )


def _both_clocks() -> tuple[int, float]:
    """Read the wall clock (Unix time, ns) and the monotonic clock (s) at one moment.

    A client sees by their difference whether the wall clock was set, so they are read again if this thread was held up between.
    """
    for _ in range(100):
        before = time.monotonic()
        wall_ns = time.time_ns()
        if time.monotonic() - before < TOGETHER_S:
            break
    return wall_ns, before


def _masked(text: str | None) -> str | None:
    return None if text is None else mask_passwords(text)


def _stored(tally: Tally, camera: str | None = None) -> wire.Stored:
    """The journal's verdicts of one camera, or of all."""

    def count(outcome: wire.Outcome) -> int:
        return sum(n for (name, found), n in tally.counts.items() if found == outcome and camera in (None, name))

    return wire.Stored(passed=count("PASS"), failed=count("FAIL"), unknown=count("UNKNOWN"))
