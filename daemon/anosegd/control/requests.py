"""Defines the requests that the control socket understands: one JSON object `{"id": …, "op": …, …}` each. Any thread."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from anoseg_engines.passwords import mask_passwords
from anosegd.journal import Mark

MAX_PAGE = 1000
MAX_CHANGES = 200
MAX_TEXT = 200
MAX_COMMENT = 500
MAX_PARTS_MARKED = 200
MAX_MARKS = 1000
MAX_NOTES = 200
MAX_PAUSE_MIN = 480
MAX_PART_ID = 4000
"""Letters. Escaped in JSON, they fit into a request, and into a verdict that the journal takes."""
NOT_BLANK = r"\S"
SHOWN_TO_PEOPLE = ("who", "why", "comment")
"""Fields that screens and logs show: without control characters."""
OPTIONAL_NAMES = ("part_id", "request_id", "recipe")
"""Fields of a trigger that may be left out, but not be empty."""
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Person = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, pattern=NOT_BLANK)]
Seq = Annotated[int, Meta(ge=0, le=1 << 62)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Id = Annotated[str, Meta(max_length=64)] | Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)] | None
"""Copied from a request into its answer."""


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="op"):
    id: Id = None


class ReplayRequest(_Request, frozen=True, tag="replay"):
    """Committed verdicts with the numbers from…to, one page at a time. `next` in the answer says where to continue."""

    first: Seq = msgspec.field(name="from")
    last: Seq | None = msgspec.field(name="to", default=None)
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 500


class SinceRequest(_Request, frozen=True, tag="since"):
    """The first number committed at or after a Unix time."""

    time_ns: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class ConsumerRequest(_Request, frozen=True, tag="consumer"):
    """A named durable consumer's cursor. A new name starts before the oldest verdict kept."""

    name: Name


class AckRequest(_Request, frozen=True, tag="ack"):
    """A consumer has processed everything up to and including `seq`. The cursor never moves back."""

    name: Name
    journal_id: str
    seq: Seq


class ForgetRequest(_Request, frozen=True, tag="forget"):
    """Delete a named consumer."""

    name: Name


class StatusRequest(_Request, frozen=True, tag="status"):
    """The station's state, as in the heartbeat."""


class DrainRequest(_Request, frozen=True, tag="drain"):
    """Stop capturing, inspect and send the captured parts, then end with exit code 0."""


class ReloadRequest(_Request, frozen=True, tag="reload"):
    """Read the configuration again. It is checked first; if it is refused, nothing changes. Answered when it is in use."""


class SwapRequest(_Request, frozen=True, tag="swap"):
    """Inspect with another bundle from the next part on. Its self-test runs first; if the bundle is refused, nothing changes.

    Attributes:
        bundle: Absolute path of STORE/NAME (the version released last) or STORE/NAME/VERSION.
        other_product: Whether a bundle of another product than the present one is accepted.
        who, why: Who asks, and the reason, for the journal. Both may be empty.
    """

    bundle: Annotated[str, Meta(min_length=1, max_length=4096)]
    other_product: bool = False
    who: Text = ""
    why: Text = ""


class RollbackRequest(_Request, frozen=True, tag="rollback"):
    """Return to the bundle that inspected before, in the same way. Repeated, it goes further back.

    Attributes:
        who, why: Who asks, and the reason, for the journal. Both may be empty.
    """

    who: Text = ""
    why: Text = ""


class RecipeRequest(_Request, frozen=True, tag="recipe"):
    """Inspect by another recipe from the next part on, also after a restart. If the recipe is refused, nothing changes.

    Attributes:
        name: The recipe's name in the configuration.
        who, why: Who asks, and the reason, for the journal. Both may be empty.
    """

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    who: Text = ""
    why: Text = ""


class SetThresholdRequest(_Request, frozen=True, tag="set_threshold"):
    """Judge a camera's parts by another score threshold from the next part on, also after a restart.

    Attributes:
        camera: Name of the camera.
        value: A part with this score or more is FAIL; None returns to the configured or calibrated threshold.
        who, why: Who asks, and the reason, for the journal.
    """

    camera: Annotated[str, Meta(max_length=63)]
    value: Annotated[float, Meta(gt=0, le=1)] | None
    who: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, pattern=NOT_BLANK)]
    why: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, pattern=NOT_BLANK)]


class PauseRequest(_Request, frozen=True, tag="pause"):
    """Inspect nothing for a time: every part is UNKNOWN: paused. It ends by itself; a new pause replaces the one before.

    Attributes:
        minutes: How long.
        camera: Name of the camera; None pauses all.
        who, why: Who asks, and the reason, for the journal. The reason may be empty.
    """

    minutes: Annotated[float, Meta(ge=1, le=MAX_PAUSE_MIN)]
    who: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, pattern=NOT_BLANK)]
    camera: Annotated[str, Meta(max_length=63)] | None = None
    why: Text = ""


class ResumeRequest(_Request, frozen=True, tag="resume"):
    """End a pause early. A camera that is not paused is left as it is.

    Attributes:
        camera: Name of the camera; None resumes all.
        who, why: As in `PauseRequest`.
    """

    who: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, pattern=NOT_BLANK)]
    camera: Annotated[str, Meta(max_length=63)] | None = None
    why: Text = ""


class FeedbackRequest(_Request, frozen=True, tag="feedback"):
    """Say whether the verdicts of parts are right. All of them are marked, or none. Repeated, it changes nothing more.

    Attributes:
        journal_id: The journal of these verdicts.
        seqs: The numbers of the verdicts.
        mark: What is said.
        who: The person.
        comment: In the person's words; may be empty.
    """

    journal_id: Annotated[str, Meta(max_length=64)]
    seqs: Annotated[list[Annotated[int, Meta(ge=1, le=1 << 62)]], Meta(min_length=1, max_length=MAX_PARTS_MARKED)]
    mark: Mark
    who: Person
    comment: Annotated[str, Meta(max_length=MAX_COMMENT)] = ""


class UndoFeedbackRequest(_Request, frozen=True, tag="undo_feedback"):
    """Take feedback back: the marks from before count again.

    Attributes:
        journal_id: The journal in which it was noted.
        who: The person.
        change: The number that `feedback` was answered with; None takes the last feedback of this person.
    """

    journal_id: Annotated[str, Meta(max_length=64)]
    who: Person
    change: Seq | None = None


class MarksRequest(_Request, frozen=True, tag="marks"):
    """The newest marks that count, by the numbers of their parts.

    Attributes:
        before: Only parts with lower numbers; None begins with the newest.
        limit: The most marks.
    """

    before: Seq | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_MARKS)] = 500


class ChangesRequest(_Request, frozen=True, tag="changes"):
    """The newest changes of thresholds, bundles and pauses that the journal noted, the oldest of them first.

    Attributes:
        limit: The most changes.
        after: Only changes with a greater number, and of these the oldest. For a reader that wants every change.
    """

    limit: Annotated[int, Meta(ge=1, le=MAX_CHANGES)] = 20
    after: Seq | None = None


class NotesRequest(_Request, frozen=True, tag="notes"):
    """What people said about parts and took back, in the order in which they did. For a reader that wants every note.

    Attributes:
        after: Only notes with a greater number.
        limit: The most notes.
    """

    after: Seq
    limit: Annotated[int, Meta(ge=1, le=MAX_NOTES)] = MAX_NOTES


class ProveRequest(_Request, frozen=True, tag="prove"):
    """Run the self-test with the golden images now, between parts. Answered with its result."""


class TriggerRequest(_Request, frozen=True, tag="trigger"):
    """Reports a part in front of a camera with software triggers. The answer comes when it is noted. A verdict always follows.

    Attributes:
        camera: Name of the camera.
        part_id: The part's name in its verdict; None lets the station choose one.
        request_id: A name for this request, so that it may be sent again: a repetition gets the same answer and makes no
            second part.
        recipe: The recipe that has to judge the part. If another one is in force, the part is UNKNOWN: recipe.
    """

    camera: Annotated[str, Meta(max_length=63)]
    part_id: Annotated[str, Meta(min_length=1, max_length=MAX_PART_ID)] | None = None
    request_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    recipe: Annotated[str, Meta(min_length=1, max_length=256)] | None = None


SlowRequest = (
    ReloadRequest
    | SwapRequest
    | RollbackRequest
    | ProveRequest
    | TriggerRequest
    | RecipeRequest
    | SetThresholdRequest
    | PauseRequest
    | ResumeRequest
    | FeedbackRequest
    | UndoFeedbackRequest
)
"""Requests that other threads carry out; they are answered later."""
QuickRequest = (
    ReplayRequest
    | SinceRequest
    | MarksRequest
    | ChangesRequest
    | NotesRequest
    | ConsumerRequest
    | AckRequest
    | ForgetRequest
    | StatusRequest
    | DrainRequest
)
Request = SlowRequest | QuickRequest


class RefusedError(Exception):
    """A request that is answered with an error: `code` for programs, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def decode(payload: bytes) -> Request:
    """Decode a request.

    Raises:
        RefusedError: It is malformed.
    """
    try:
        request: Request = msgspec.json.decode(payload, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError("bad_request", in_words(str(error))) from error
    for name in request.__struct_fields__:
        value = getattr(request, name)
        if name in SHOWN_TO_PEOPLE and isinstance(value, str) and _CONTROLS.search(value):
            raise RefusedError("bad_request", f"{name} contains a control character: leave it out")
        if isinstance(value, str) and "\0" in value:  # many programs take it for the end of the text
            raise RefusedError("bad_request", f"{name} contains a NUL character (U+0000): leave it out")
    return request


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Among them the characters that turn the direction of writing, and halves of characters."""
_KINDS = {"str": "text", "int": "a whole number", "float": "a number", "null": "nothing", "bool": "true or false"}
_BOUNDS = {"<=": "at most", ">=": "at least", "<": "below", ">": "above"}


def _kinds(names: str) -> str:
    return " or ".join(_KINDS.get(name, name) for name in names.split(" | "))


_WORDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"Expected `str` matching regex '\\\\S' - at `\$\.(\w+)`"), lambda m: f"{m[1]} is empty: say it in words"),
    (
        re.compile(r"Expected `(?:int|float)` (<=|>=|<|>) (\S+) - at `\$\.(\w+)`"),
        lambda m: f"{m[3]} must be {_BOUNDS[m[1]]} {float(m[2]):.15g}",
    ),
    (
        re.compile(r"Expected `str` of length <= (\d+) - at `\$\.(\w+)`"),
        lambda m: f"{m[2]} is too long: at most {m[1]} characters",
    ),
    (
        re.compile(r"Expected `array` of length (<=|>=) (\d+) - at `\$\.(\w+)`"),
        lambda m: f"{m[3]} must have {_BOUNDS[m[1]]} {m[2]} entries",
    ),
    (
        re.compile(r"Expected `str` of length >= 1 - at `\$\.(\w+)`"),
        lambda m: f"{m[1]} is empty" + (": leave it out, or give a name" if m[1] in OPTIONAL_NAMES else ""),
    ),
    (
        re.compile(r"Expected `([\w |]+)`, got `(\w+)` - at `\$\.(\w+)`"),
        lambda m: f"{m[3]} must be {_kinds(m[1])}, not {_kinds(m[2])}",
    ),
    (re.compile(r"Object missing required field `(\w+)`"), lambda m: f"{m[1]} is missing"),
    (re.compile(r"Invalid (?:enum )?value (.*) - at `\$\.(\w+)`"), lambda m: f"{m[2]} {m[1]} is unknown"),
)
"""What the decoder says, and the same for people who send requests."""


def in_words(said: str) -> str:
    """Return a refusal of msgspec's decoder in words for people who send requests."""
    return next((words(match) for pattern, words in _WORDS if (match := pattern.fullmatch(said))), said)


def id_of(payload: bytes) -> Id:
    """Return the id of a malformed request, or None without an id. The id lets the sender recognise the answer."""
    try:
        return msgspec.json.decode(payload, type=_WithId).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def error_reply(request_id: Id, code: str, message: str) -> dict[str, Any]:
    """Return the answer to a request that is refused."""
    return {"id": request_id, "ok": False, "error": code, "message": mask_passwords(message)}


class _WithId(msgspec.Struct, frozen=True):
    id: Id = None
