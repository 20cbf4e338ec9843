"""Closes parts, gives verdicts their numbers and sends them and the heartbeat, on the thread "publisher".

The thread owns the PUB socket (`outlet`). No other thread closes parts: cameras and inspector report outcomes.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from anoseg_engines.placement import Region
from anosegd import logs, wire
from anosegd.capture.config import Policy
from anosegd.config import Config
from anosegd.connection_limits import CHECK_EVERY_S
from anosegd.evidence import EvidenceKeeper, Offered
from anosegd.journal import Journal, VerdictId
from anosegd.keys import Guard
from anosegd.outcome import Inspected, Outcome, Unknown
from anosegd.part import Part
from anosegd.picture import Picture
from anosegd.publish.commits import Commits
from anosegd.publish.counts import CameraCounts
from anosegd.publish.deadline import deadline_missed, overdue
from anosegd.publish.images import ImageEncoder, ImageJob, Subscriptions, region_in, topic_of
from anosegd.publish.masks import MaskEncoder, MaskJob
from anosegd.publish.open_parts import OpenParts
from anosegd.publish.outlet import open_outlet
from anosegd.publish.verdict import mask_job, verdict_of
from anosegd.worker import Worker

HEARTBEAT_S = 1.0
MASK_QUEUE = 8
"""Anomaly maps that may wait for encoding; further ones are dropped and counted."""
EVIDENCE_PICTURES, LIVE_PICTURES = 8, 2
"""Frames of one camera that are held for their pictures, with and without evidence, besides those in the network."""
PICTURE_USERS = 2
"""Threads that may each be using one more frame, whose place was taken: "evidence" and "images"."""
LAST_COMMITS_S = 4.0
"""How long the end waits for verdicts that are being committed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifies the run.

    Attributes:
        journal_id: Together with seq, a verdict's identity while there is no journal; one for each run.
        run_id: This run of the daemon.
    """

    journal_id: str
    run_id: str


class Publisher(Worker):
    """Closes parts and sends their verdicts. Cameras open the parts; cameras and the inspector report the outcomes.

    A part is closed once, with the first outcome that is reported or by its deadline. Verdicts of a camera go out in the order
    of capture. With a journal a verdict is sent when it is committed; other parts go on meanwhile.

    Args:
        config: The station's configuration.
        identity: The run's identity.
        describe: Gives the station's state for the heartbeat; called on this thread.
        journal: Where verdicts are committed before they are sent.
        evidence: Where parts are kept; None keeps none.
        guard: Admits subscribers by their keys; None admits every one.

    Attributes:
        engine: Named in verdicts of parts that no engine judged; set before the first part.
        parallel: How many parts the engine runs at a time; set before the cameras start.
        counts: Per camera. The table is replaced, never changed, so that any thread may read it.
        last_seq: The highest number sent.
        last_state: The last state message.
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        describe: Callable[[Publisher], wire.State],
        journal: Journal | None = None,
        *,
        evidence: EvidenceKeeper | None = None,
        guard: Guard | None = None,
    ) -> None:
        super().__init__("publisher")
        self._guard = guard
        self.identity = identity
        self.counts: dict[str, CameraCounts] = {}
        self.last_seq = 0
        self.last_state = b"null"
        self.engine: wire.EngineName | None = None
        self.parallel = 0
        self._config = config
        self._describe = describe
        self._numbered = 0  # without a journal
        self._heartbeat_at = 0.0
        self._wake = threading.Event()
        self._state_changed = False
        self._stop_reason: wire.Reason | None = None
        self._open = OpenParts()
        self._commits: Commits | None = None
        if journal is not None:
            self._commits = Commits(
                journal,
                on_failure=config.on_journal_failure,
                send=self._send_verdict,
                late=self._count_late,
                wake=self._wake.set,
            )
        self._masks = MaskEncoder(MASK_QUEUE, self._mask_encoded)
        self._encoded: deque[tuple[wire.Mask, bytes]] = deque()
        self._maps_unsent = 0
        self._evidence = evidence
        self._subscriptions = Subscriptions()
        self._images = ImageEncoder(self._image_encoded)
        self._encoded_images: deque[tuple[wire.Image, bytes]] = deque()
        self._bound = threading.Event()
        self._late_log = logs.Throttles("verdict.late")
        for name in config.cameras:
            self.add_camera(name)

    # ---- any thread

    def start(self) -> None:
        """Start the thread and bind the socket.

        Raises:
            PublishError: The endpoint cannot be bound.
        """
        self.start_until(self._bound)

    def add_camera(self, name: str) -> None:
        """Count this camera's parts; called before the first of them. Main thread."""
        if name not in self.counts:
            self.counts = self.counts | {name: CameraCounts()}

    @property
    def most_pictures(self) -> int:
        """How many frames of one camera may be held for their pictures after the inspection has copied them.

        All parts in the network may be of one camera. They must not take the places of those whose outcome is known.
        """
        return (EVIDENCE_PICTURES if self._evidence is not None else LIVE_PICTURES) + self.parallel

    def picture_slots(self, policy: Policy) -> int:
        """Return how many slots a camera needs for held frames, so that the inspection is not short of any."""
        if self._evidence is None and not self._config.publish.images:
            return 0
        if self._evidence is None and policy == "wait":
            return self.parallel  # a source that waits loses nothing if a frame is held
        return self.most_pictures + PICTURE_USERS

    def wants_picture(self, part: Part) -> bool:
        """Return whether somebody may need the picture of this part."""
        kept = self._evidence is not None and (part.settings is None or part.settings.keep_evidence)
        return kept or (self._config.publish.images and self._subscriptions.want(part.camera))

    def open_part(self, part: Part, picture: Picture | None = None) -> None:
        """Open a part: it gets one verdict. Called on the camera's thread, in the order of capture.

        Args:
            part: The part.
            picture: Its picture, if it is wanted. The publisher becomes the holder.
        """
        self._open.open(part, picture=picture)
        if part.deadline_ns is not None:
            self._wake.set()

    def add_picture(self, part: Part, picture: Picture) -> None:
        """Add the picture of a triggered part, which was opened before. The publisher becomes the holder."""
        if not self._open.add_picture(part, picture):
            picture.done()

    def open_as_unknown(self, part: Part, unknown: Unknown) -> None:
        """Open a part whose outcome is known: it will not be inspected."""
        self._open.open(part, unknown)
        self._wake.set()

    def report_outcome(self, part: Part, outcome: Outcome) -> None:
        """Report an open part's outcome; the publisher's thread closes the part. A late result is logged and counted."""
        if self._open.close(part, outcome, keep_picture=self._needs_picture(part, outcome)):
            self._wake.set()
        elif isinstance(outcome, Inspected):
            self._count_late(part)
            self._late_log.of(part.camera).warning(
                camera=part.camera,
                part=part.part_id,
                outcome=outcome.judgement.outcome,
                score=outcome.judgement.score,
                after_ms=(outcome.finished_ns - part.began_ns) / 1e6,
            )

    def _needs_picture(self, part: Part, outcome: Outcome) -> bool:
        """Return whether somebody needs the part's picture, now that its outcome is known.

        Pictures of good parts must not take the places of others while their verdicts are committed.
        """
        if not isinstance(outcome, Inspected) or outcome.judgement.outcome != "PASS":
            return True
        sampled = self._evidence is not None and self._evidence.samples(part.camera, part.sequence)
        return sampled or self._subscriptions.want(part.camera)

    def drop_part(self, part: Part) -> None:
        """Drop a part that a newer frame has replaced (policy latest). It gets no verdict."""
        if self._open.drop(part):
            self.counts[part.camera].frame_dropped()
            self._wake.set()

    def state_changed(self) -> None:
        """Send the state now, not at the next heartbeat."""
        self._state_changed = True
        self._wake.set()

    def stop(self, reason: wire.Reason = "shutdown") -> None:
        """Close what is open as UNKNOWN with this reason, send everything, end."""
        self._stop_reason = reason
        self._wake.set()

    def awaits(self, slot: str) -> bool:
        """Return whether an open part began in a recipe whose engine has this slot."""
        return self._open.any_of(slot)

    @property
    def masks_dropped(self) -> int:
        """Maps that were dropped because too many waited, here or for subscribers that do not read them."""
        return self._masks.dropped + self._maps_unsent + (self._commits.maps_dropped if self._commits is not None else 0)

    @property
    def idle(self) -> bool:
        """Whether no part is open and no verdict waits for its commit."""
        return not self._open and not self._commits

    # ---- the publisher's thread

    def work(self) -> None:
        """Bind, then send until asked to stop."""
        with open_outlet(self._config.publish.endpoint, self._guard, self._subscriptions) as self._outlet:
            self._masks.start()
            self._images.start()
            self._bound.set()
            try:
                while self._stop_reason is None:
                    self._step()
                self._end(self._stop_reason)
            finally:
                self._masks.stop()
                self._images.stop()
                self._masks.join(2.0)
                self._images.join(2.0)
            self._send_masks()
            self._send_state()

    def _step(self, give_up_at: float = math.inf) -> None:
        """Wait for work, at most until `give_up_at` (monotonic seconds). Then do all work that is due."""
        self._wait(give_up_at)
        self._commit_closed()
        if self._commits is not None:
            self._commits.send_due()
        self._send_masks()
        self._send_images()
        if self._outlet.hear():
            self._wake.set()
        self.answer()
        if self._state_changed or time.monotonic() >= self._heartbeat_at:
            if self._masks.failure is not None:
                raise self._masks.failure
            self._send_state()

    def _wait(self, give_up_at: float) -> None:
        """Wait for the next heartbeat or deadline, for a report from another thread, or until `give_up_at`."""
        deadlines = [self._open.next_deadline_ns()]
        if self._commits is not None:
            deadlines.append(self._commits.next_deadline_ns())
        until = min(
            [
                give_up_at,
                self._heartbeat_at,
                time.monotonic() + CHECK_EVERY_S,
                *(ns / 1e9 for ns in deadlines if ns is not None),
            ]
        )
        self._wake.wait(max(0.0, until - time.monotonic()))
        self._wake.clear()

    def _commit_closed(self) -> None:
        """Number the verdicts of closed parts and give them to the journal. Without a journal, send them."""
        for entry in self._open.take_closed():
            part, outcome = entry.part, entry.outcome
            if outcome is None:
                outcome = deadline_missed(part)
            elif isinstance(outcome, Inspected) and overdue(part):
                self._count_late(part)
                outcome = deadline_missed(part)
            if self._commits is not None:
                verdict = self._verdict(part, outcome, self._commits.next_id())
                self._commits.add(part, outcome, verdict, picture=entry.picture)
            else:
                self._numbered += 1
                verdict = self._verdict(part, outcome, VerdictId(self.identity.journal_id, self._numbered))
                self._send_verdict(verdict, part, outcome if isinstance(outcome, Inspected) else None, entry.picture)

    def _verdict(self, part: Part, outcome: Outcome, verdict_id: VerdictId) -> wire.Verdict:
        assert self.engine is not None, "parts come after the engine"
        return verdict_of(
            part,
            outcome,
            verdict_id,
            station=self._config.station,
            run_id=self.identity.run_id,
            engine=self.engine,
            durable=self._commits is not None,
        )

    def _end(self, reason: wire.Reason) -> None:
        """Close what is open; wait for what is being committed, then send it without the journal's answer."""
        self._open.close_all(Unknown(reason, "the daemon stopped before this part was inspected"))
        self._commit_closed()
        if self._commits is None:
            return
        give_up_at = time.monotonic() + LAST_COMMITS_S
        self._commits.send_due()
        while self._commits and time.monotonic() < give_up_at:
            self._step(give_up_at)
        self._commits.send_all()

    def _send_verdict(self, verdict: wire.Verdict, part: Part, inspected: Inspected | None, picture: Picture | None) -> None:
        self._outlet.send(f"verdict.{verdict.camera}", wire.encode(verdict))
        self.last_seq = max(self.last_seq, verdict.seq)
        if (counts := self.counts.get(verdict.camera)) is not None:  # the camera may be one of an earlier run
            counts.sent(verdict)
        mask = mask_job(verdict, inspected) if inspected is not None and inspected.inspection.anomaly_map.size else None
        if mask is not None and self._config.publish.masks:
            self._masks.offer(mask)
        if picture is not None:
            if inspected is not None:
                region = inspected.placement.region
            else:
                region = region_in(picture.shape, None if part.settings is None else part.settings.region)
            self._hand_on(picture, verdict, part, region=region, mask=mask)
            picture.done()

    def _hand_on(self, picture: Picture, verdict: wire.Verdict, part: Part, *, region: Region, mask: MaskJob | None) -> None:
        """Offer a picture to those who keep it or show it."""
        if self._evidence is not None and (part.settings is None or part.settings.keep_evidence):
            header, anomaly_map = (None, None) if mask is None else (mask.header, mask.anomaly_map)
            self._evidence.offer(Offered(verdict, region, header, anomaly_map, picture))
        if self._config.publish.images and self._subscriptions.want(verdict.camera):
            self._images.offer(ImageJob(verdict, region, picture))

    def _count_late(self, part: Part) -> None:
        self.counts[part.camera].late()

    def _mask_encoded(self, header: wire.Mask, png: bytes) -> None:
        """On the encoder's thread."""
        self._encoded.append((header, png))
        self._wake.set()

    def _send_masks(self) -> None:
        while self._encoded:
            header, png = self._encoded.popleft()
            self._maps_unsent += not self._outlet.send_map(f"mask.{header.camera}".encode(), wire.encode(header), png)

    def _image_encoded(self, header: wire.Image, jpeg: bytes) -> None:
        """On the encoder's thread."""
        self._encoded_images.append((header, jpeg))
        self._wake.set()

    def _send_images(self) -> None:
        """Send encoded pictures. A subscriber that does not read them must not fill the memory."""
        while self._encoded_images:
            header, jpeg = self._encoded_images.popleft()
            self._outlet.send_image(topic_of(header.camera), wire.encode(header), jpeg)

    def _send_state(self) -> None:
        self._state_changed = False
        self._heartbeat_at = time.monotonic() + HEARTBEAT_S
        self.last_state = wire.encode(self._describe(self))
        self._outlet.send("state", self.last_state)
