"""Asks a station for something: one method a request, without the verdicts. On the client's thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .connection import Connection

MARKS_PAGE = 500


class Commands:
    """The requests of `Client`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def request(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send one request to the control socket and return its answer.

        Raises:
            RefusedError: The station refuses.
            NoAnswerError: No answer arrived in time.
            RequestError: The arguments cannot be sent.
            ClientError: This client has no control socket.
        """
        return self._connection.request(op, **arguments)

    def status(self) -> dict[str, Any]:
        """Return the station's state, as in its heartbeat."""
        return dict(self.request("status")["state"])

    def set_threshold(self, camera: str, value: float | None, *, who: str, why: str) -> dict[str, Any]:
        """Judge a camera's parts by another score threshold from the next part on, also after a restart.

        Args:
            camera: Name of the camera.
            value: A part with this score or more is FAIL; None returns to the configured or calibrated threshold.
            who, why: Who asks, and the reason. Both go into the station's journal.

        Returns:
            `old` and `new`, each with `value`, `origin` and `calibrated`.

        Raises:
            RefusedError: The station refuses.
            NoAnswerError: No answer arrived in time; the threshold may have been set.
        """
        reply = self.request("set_threshold", camera=camera, value=value, who=who, why=why)
        return {"old": reply["old"], "new": reply["new"]}

    def pause(self, minutes: float, *, who: str, why: str = "", camera: str | None = None) -> dict[str, Any]:
        """Inspect nothing for a time: every part is UNKNOWN: paused. It ends by itself.

        Args:
            minutes: How long, from 1 to 480.
            who, why: Who asks, and the reason. Both go into the station's journal.
            camera: Name of the camera; None pauses all.

        Returns:
            `cameras`, the names of the paused ones, and `until`, the time in UTC.

        Raises:
            RefusedError: The station refuses.
            NoAnswerError: No answer arrived in time; the pause may have begun.
        """
        reply = self.request("pause", minutes=minutes, camera=camera, who=who, why=why)
        return {"cameras": reply["cameras"], "until": reply["until"]}

    def resume(self, *, who: str, why: str = "", camera: str | None = None) -> list[str]:
        """Inspect again before a pause has ended.

        Args:
            who, why: As in `pause`.
            camera: Name of the camera; None resumes all.

        Returns:
            The cameras that were paused.

        Raises:
            RefusedError: The station refuses.
            NoAnswerError: No answer arrived in time.
        """
        return list(self.request("resume", camera=camera, who=who, why=why)["cameras"])

    def trigger(
        self, camera: str, *, part_id: str | None = None, request_id: str | None = None, recipe: str | None = None
    ) -> dict[str, Any]:
        """Report a part in front of a camera with software triggers. Its verdict is published; it is not waited for.

        Args:
            camera: Name of the camera.
            part_id: The part's name in its verdict; None lets the station choose one.
            request_id: A name for this request: sent again, it gets the same answer and makes no second part.
            recipe: The recipe that has to judge the part; it switches nothing. If another recipe is in force when the part is
                inspected, the part is UNKNOWN: recipe. None asks for none.

        Returns:
            `camera`, `part_id` and `triggered_at`, as in the verdict that follows.

        Raises:
            RefusedError: The station refuses.
            NoAnswerError: No answer arrived in time. Send the same request_id again; without one, the trigger may count.
        """
        given = {"part_id": part_id, "request_id": request_id, "recipe": recipe}
        return self.request("trigger", camera=camera, **{name: value for name, value in given.items() if value is not None})

    def swap(self, bundle: str, *, other_product: bool = False, who: str = "", why: str = "") -> dict[str, Any]:
        """Inspect with another bundle from the next part on. Give the client a `request_timeout_s` of a minute for this.

        Args:
            bundle: Absolute path, on the station's machine, of STORE/NAME or STORE/NAME/VERSION.
            other_product: Whether a bundle of another product is accepted.
            who, why: Who asks, and the reason. Both go into the station's journal.

        Returns:
            `engine`, and `warning` if there is something that an operator should know.

        Raises:
            RefusedError: The bundle is refused; nothing has changed.
            NoAnswerError: No answer arrived in time; the bundle may have been taken.
        """
        return self.request("swap", bundle=bundle, other_product=other_product, who=who, why=why)

    def recipe(self, name: str, *, who: str = "", why: str = "") -> dict[str, Any]:
        """Inspect by another recipe from the next part on, also after a restart. The answer comes when it is in force.

        A recipe whose engine is loaded answers in milliseconds, another one in seconds: give the client a
        `request_timeout_s` of a minute for this. A recipe that is in force already is answered at once.

        Args:
            name: The recipe's name in the station's configuration.
            who, why: Who asks, and the reason. Both go into the station's journal.

        Returns:
            `recipe` and `before`, the names of the recipe in force and the one before; `engine`, as in a verdict; `settings`,
            the checksum of the settings, as in a verdict; and `cameras`, the names of the cameras that were opened again.

        Raises:
            RefusedError: There is no such recipe, or its bundle is refused. The recipe before stays in force.
            NoAnswerError: No answer arrived in time; the recipe may have been taken. `status()["recipe"]` says which one is in
                force.
        """
        reply = self.request("recipe", name=name, who=who, why=why)
        return {key: reply[key] for key in ("recipe", "before", "engine", "settings", "cameras")}

    def changes(self, limit: int = 20, *, after: int | None = None) -> list[dict[str, Any]]:
        """Return changes of thresholds, bundles and pauses, in their order.

        Args:
            limit: The most changes, at most 200.
            after: Return the oldest changes whose `number` is greater; None returns the newest changes.
        """
        cursor = {} if after is None else {"after": after}
        return list(self.request("changes", limit=limit, **cursor)["changes"])

    def notes(self, after: int, limit: int = 200) -> list[dict[str, Any]]:
        """Return what people said about parts and took back, in their order: the oldest notes whose `number` is greater.

        Args:
            after: The `number` of the last note that is known; 0 begins with the oldest.
            limit: The most notes, at most 200.
        """
        return list(self.request("notes", after=after, limit=limit)["notes"])

    def feedback(self, journal_id: str, seqs: Sequence[int], mark: str, *, who: str, comment: str = "") -> dict[str, Any]:
        """Say whether the verdicts of parts are right. All of them are marked, or none. Repeated, it changes nothing more.

        Args:
            journal_id: `journal_id` of these verdicts.
            seqs: Their numbers, at most 200.
            mark: `right`, `false_reject`, `missed_defect` or `unsure`.
            who: The person.
            comment: In the person's words.

        Returns:
            `change`, the number with which it can be taken back, and `seqs`.

        Raises:
            RefusedError: The station refuses: there is no such part, or the mark does not fit its verdict.
            NoAnswerError: No answer arrived in time; the parts may have been marked.
        """
        reply = self.request("feedback", journal_id=journal_id, seqs=list(seqs), mark=mark, who=who, comment=comment)
        return {"change": reply["change"], "seqs": reply["seqs"]}

    def undo_feedback(self, journal_id: str, *, who: str, change: int | None = None) -> list[int]:
        """Take feedback back: the marks from before count again.

        Args:
            journal_id: The journal in which it was noted.
            who: The person.
            change: The number that `feedback` returned; repeated, it changes nothing more. None takes the last feedback of
                this person, each time an earlier one.

        Returns:
            The numbers of the parts concerned.

        Raises:
            RefusedError: There is nothing to take back, or the station refuses.
            NoAnswerError: No answer arrived in time; it may have been taken back.
        """
        return list(self.request("undo_feedback", journal_id=journal_id, who=who, change=change)["seqs"])

    def marks(self) -> Iterator[dict[str, Any]]:
        """Yield what people said about parts, the newest parts first.

        Each has `journal_id`, `seq`, `mark`, `comment`, `who`, `at`, and `change`, the number with which it can be taken back.

        Raises:
            ClientError: The station does not answer.
        """
        before: int | None = None
        while True:
            answer = self.request("marks", before=before, limit=MARKS_PAGE)
            page = answer["marks"]
            yield from ({"journal_id": answer["journal_id"], **mark} for mark in page)
            if len(page) < MARKS_PAGE:
                return
            before = page[-1]["seq"]

    def first_seq_since(self, time_ns: int) -> int:
        """Return the first number whose verdict was committed at or after `time_ns` (Unix time)."""
        return int(self.request("since", time_ns=time_ns)["seq"])
