"""Parses the command line of `anosegd`, and runs the module in `commands/`, which is imported only then."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from collections.abc import Callable
from datetime import date, time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from anoseg_engines.commands.arguments import above_zero, positive, seed
from anoseg_engines.completion import add_common_options
from anoseg_engines.errors import AnosegError
from anoseg_engines.program import program_output
from anosegd import logs, signals
from anosegd.commands.moments import moment
from anosegd.commands.shown import shown

if TYPE_CHECKING:
    from anosegd.view.address import Address

LONGEST_ERROR = 10_000
MOST_DAYS = 36_500
"""For which the token of a user can be valid: a hundred years."""


def main() -> None:
    """Run the command line of this process and exit with the command's code, or with the error's."""
    with program_output("anosegd"):
        try:
            code = run(sys.argv[1:])
        except AnosegError as error:
            text = "\n".join(shown(line, LONGEST_ERROR) for line in f"anosegd: {error}".split("\n"))
            in_journal = logs.is_journal(sys.stderr, os.environ.get("JOURNAL_STREAM"))
            print(logs.as_error(text) if in_journal else text, file=sys.stderr)
            code = error.exit_code
        except KeyboardInterrupt:
            code = 130
        sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code.

    Raises:
        AnosegError: The command failed for a reason that the user can remove.
    """
    options = _parser().parse_args(arguments)
    if options.command == "run":
        signals.block()  # before the import: some libraries start threads
    command: Callable[[argparse.Namespace], int] = import_module(f"anosegd.commands.{options.module}").main
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="anosegd", description="Inspect parts and publish verdicts over ZeroMQ.")
    add_common_options(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, module: str | None = None) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text)
        command.set_defaults(module=module or name.replace("-", "_"))
        return command

    def add_client(name: str, text: str, module: str | None = None) -> argparse.ArgumentParser:
        """Add a command that talks to a running station."""
        command = add(name, text, module)
        station = command.add_mutually_exclusive_group()
        station.add_argument("config", type=Path, nargs="?", metavar="CONFIG", help="the station's configuration file")
        station.add_argument("--connect", type=_address, metavar="ENDPOINT", help="where it publishes (tcp://127.0.0.1:5570)")
        command.add_argument(
            "--control", type=_address, metavar="ENDPOINT", help="where it answers requests (tcp://127.0.0.1:5571)"
        )
        command.add_argument("--key", type=Path, metavar="FILE", help="this client's key, for a station that asks for one")
        return command

    check = add("check", "validate a configuration and its bundle without opening a camera")
    check.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/reference.yaml")

    start = add("run", "inspect and publish until stopped")
    start.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/reference.yaml")
    start.add_argument("--once", action="store_true", help="stop when every folder and file has been read to its end")
    start.add_argument("--verbose", action="store_true", help="log details too")

    tail = add_client("tail", "show verdicts as they arrive")
    tail.add_argument("--count", type=positive, metavar="N", help="stop after N verdicts")
    tail.add_argument("--since", type=moment, metavar="TIME", help="begin in the journal: 22:00, 8h, 2026-11-22T06:00")
    tail.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    status = add_client("status", "show the state of a running station")
    status.add_argument("--timeout", type=above_zero, default=3.0, metavar="S", help="seconds to wait for a heartbeat (3)")
    status.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    replay = add_client("replay", "print committed verdicts from the journal as JSON lines")
    replay.add_argument("--from", type=positive, default=1, metavar="N", help="first number (the oldest kept)")
    replay.add_argument("--to", type=positive, metavar="N", help="last number (the newest)")
    export = add_client("export", "write the journal's verdicts of a period, such as a shift, as CSV")
    export.add_argument("--csv", type=Path, required=True, metavar="FILE", help="a new file; -: standard output")
    export.add_argument("--since", type=moment, metavar="TIME", help="22:00, 8h, 2026-11-22T06:00 (the oldest kept)")
    export.add_argument("--until", type=moment, metavar="TIME", help="the same forms, a time of day after --since (now)")

    view = add_client("view", "serve the operator's screen to browsers")
    view.add_argument(
        "--listen",
        type=_listen,
        default="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="an address of this machine; any but a loopback address needs users (127.0.0.1:8080)",
    )
    view.add_argument(
        "--stale-after", type=above_zero, default=10.0, metavar="S", help="show a verdict older than this as an old one (10)"
    )
    view.add_argument(
        "--shifts",
        type=_shifts,
        default="06:00,14:00,22:00",
        metavar="TIMES",
        help="when shifts begin, for their counts (06:00,14:00,22:00)",
    )
    view.add_argument("--users", type=Path, metavar="FILE", help="let only these users in, see anosegd user (everybody)")
    view.add_argument("--certificate", type=Path, metavar="FILE", help="serve with TLS: a certificate, PEM (one that it makes)")
    view.add_argument(
        "--certificate-key", type=Path, metavar="FILE", help="the certificate's key, PEM (in the file of the certificate)"
    )
    view.add_argument(
        "--name",
        type=_host,
        action="append",
        default=[],
        metavar="HOST",
        help="a further name or address under which browsers reach the screen; may be repeated",
    )
    _add_user(add("user", "add, revoke or list the users of a screen"))

    bridge = add("bridge", "connect a PLC to one camera of a station")
    kinds = ("modbus", "mqtt", "s7", "logix", "opcua")
    bridge.add_argument("kind", choices=kinds, metavar="KIND", help=f"what the other side speaks: {', '.join(kinds)}")
    bridge.add_argument("config", type=Path, metavar="CONFIG", help="the bridge's YAML file, see configs/bridge.yaml")
    bridge.add_argument("--key", type=Path, metavar="FILE", help="this client's key (station.key of CONFIG)")
    bridge.add_argument("--check", action="store_true", help="validate CONFIG and print the map; open nothing")
    bridge.add_argument("--plc-source", action="store_true", help="print what to import into the PLC's project (s7, logix)")

    archive = add("archive", "keep the verdicts of many stations in a PostgreSQL database")
    archive.add_argument("config", type=Path, metavar="CONFIG", help="the archive's YAML file, see configs/archive.yaml")
    archive.add_argument("--dry-run", action="store_true", help="say what would be done; change nothing")

    add_client("drain", "finish the captured parts, then end the daemon with exit code 0", "send_request")
    reload = add_client("reload", "read the configuration again; print the reason if it is refused", "send_request")
    reload.add_argument("--wait", action="store_true", help="for systemd's ExecReload; reload always waits for the answer")
    swap = add_client(
        "swap", "inspect with another bundle from the next part on; print the reason if it is refused", "send_request"
    )
    swap.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="STORE/NAME (current) or STORE/NAME/VERSION")
    swap.add_argument("--other-product", action="store_true", help="accept a bundle of another product than the present one")
    rollback = add_client(
        "rollback", "return to the bundle that inspected before; repeated, it goes further back", "send_request"
    )
    recipe = add_client("recipe", "inspect by another recipe from the next part on; print the reason if it is refused")
    recipe.add_argument("name", type=_not_empty, metavar="NAME", help="the recipe's name in the configuration")
    for command in (swap, rollback, recipe):
        command.add_argument("--who", default=_user(), metavar="NAME", help="who asks, for the journal (your user name)")
        command.add_argument("--why", default="", metavar="TEXT", help="the reason, for the journal")
    threshold = add_client("set-threshold", "judge a camera's parts by another score threshold, until it is set again")
    threshold.add_argument("camera", metavar="CAMERA", help="the camera's name")
    threshold.add_argument(
        "value", type=_threshold, metavar="VALUE", help="a part with this score or more is FAIL; or: calibrated"
    )
    threshold.add_argument("--who", required=True, type=_words, metavar="NAME", help="who sets it, for the journal")
    threshold.add_argument("--why", required=True, type=_words, metavar="TEXT", help="the reason, for the journal")
    pause = add_client("pause", "inspect nothing for a time: every part is UNKNOWN: paused; it ends by itself")
    pause.add_argument("--minutes", required=True, type=_pause_minutes, metavar="N", help="how long, 1 to 480")
    resume = add_client("resume", "inspect again before a pause has ended", "pause")
    for command in (pause, resume):
        command.add_argument("--camera", type=_not_empty, metavar="NAME", help="only this camera (all)")
        command.add_argument("--who", required=True, type=_words, metavar="NAME", help="who asks, for the journal")
        command.add_argument("--why", default="", metavar="TEXT", help="the reason, for the journal")
    feedback = add_client("feedback", "say whether verdicts are right, for the journal; or take that back")
    feedback.add_argument("--seq", type=positive, nargs="+", default=[], metavar="N", help="the numbers of the verdicts")
    feedback.add_argument("--mark", choices=("right", "false_reject", "missed_defect", "unsure"), help="what is said")
    feedback.add_argument("--comment", default="", metavar="TEXT", help="in your words")
    feedback.add_argument("--who", required=True, type=_words, metavar="NAME", help="who says it, for the journal")
    feedback.add_argument("--undo", type=positive, nargs="?", const=0, metavar="CHANGE", help="take this back (your last one)")
    feedback.add_argument("--journal-id", metavar="ID", help="the journal of these verdicts (the present one)")
    changes = add_client("changes", "show who changed thresholds, bundles and recipes or paused the inspection, when and why")
    changes.add_argument("--limit", type=_changes, default=20, metavar="N", help="the newest N changes (20; at most 200)")
    changes.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    add_client("prove", "run the golden images again, between parts; print what is wrong, if anything", "send_request")
    trigger = add_client("trigger", "tell a camera with software triggers that a part is in place")
    trigger.add_argument("--camera", required=True, type=_not_empty, metavar="NAME")
    trigger.add_argument(
        "--part-id", type=_not_empty, metavar="ID", help="the part's name in its verdict (the daemon makes one)"
    )
    trigger.add_argument(
        "--request-id", type=_not_empty, metavar="ID", help="a name for this request: sent again, it makes no second part"
    )
    trigger.add_argument(
        "--recipe", type=_not_empty, metavar="NAME", help="if another recipe is in force, the part is UNKNOWN: recipe"
    )
    trigger.add_argument("--wait", action="store_true", help="wait for the verdict and print it")
    trigger.add_argument("--timeout", type=above_zero, default=60.0, metavar="S", help="seconds that --wait waits (60)")
    trigger.add_argument("--json", action="store_true", help="print the answer, or with --wait the verdict, as one JSON line")

    cameras = add("cameras", "list the cameras of this machine; with CONFIG, open each one and save an image")
    cameras.add_argument("config", type=Path, nargs="?", metavar="CONFIG", help="try the cameras of this configuration")
    cameras.add_argument("--out", type=Path, default=Path("cameras"), metavar="DIR", help="folder for the images (cameras)")

    collect = add("collect", "save training images from a camera of CONFIG, for `anoseg-train fit`; needs no bundle")
    collect.add_argument("config", type=Path, metavar="CONFIG", help="the line's configuration; its bundle may not exist yet")
    collect.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder for the images")
    collect.add_argument("--camera", metavar="NAME", help="the camera, if there are several")
    collect.add_argument("--count", type=positive, default=300, metavar="N", help="stop after N images (300)")
    collect.add_argument("--every", type=positive, default=1, metavar="N", help="take one of N parts (1: every part)")
    collect.add_argument("--every-frame", action="store_true", help="do not wait for triggers: every frame is a part")
    collect.add_argument("--view", action="store_true", help="show the camera's picture in a browser meanwhile")
    collect.add_argument(
        "--listen", type=_listen, metavar="HOST:PORT", help="as --view, at this loopback address (any free port)"
    )
    _add_evidence(add("evidence", "list or export the pictures and verdicts of kept parts"))

    _add_keygen(add("keygen", "make keys: one for the station, and one for each client"))
    add("schema", "print the JSON Schema of the published headers")

    demo = add("demo", "inspect a simulated line and compare the verdicts with the truth")
    demo.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder for pictures, configuration and log (demo-out)"
    )
    demo.add_argument("--parts", type=positive, default=200, help="number of parts (200)")
    demo.add_argument("--fps", type=above_zero, default=8.0, help="parts per second (8)")
    demo.add_argument("--seed", type=seed, default=7, help="another seed gives other parts (7)")
    demo.add_argument("--bundle", type=Path, help="a bundle of your own instead of the demo's")
    images = add("demo-images", "render the images from which the demo's bundle is trained")
    images.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    return parser


def _add_user(parser: argparse.ArgumentParser) -> None:
    """Add the commands of `user` with their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("add", help="make a user, and print the token, which is shown only this once")
    revoke = actions.add_parser("revoke", help="remove a user; open pages end within seconds")
    for action in (new, revoke, actions.add_parser("list", help="print the users")):
        place = action.add_mutually_exclusive_group()
        place.add_argument("config", type=Path, nargs="?", metavar="CONFIG", help="the station's configuration file")
        place.add_argument("--users", type=Path, metavar="FILE", help="the file of users (beside CONFIG: LINE.users.json)")
    for action in (new, revoke):
        action.add_argument("name", metavar="NAME", help="the user's name, which the station notes with changes")
    new.add_argument(
        "--role", required=True, choices=("see", "mark", "change"), help="may only look; may mark parts, too; may do everything"
    )
    new.add_argument("--days", type=_days, metavar="N", help="the token ends after N days (never)")


def _days(text: str) -> int:
    """A number of days, as an argument's type."""
    number = positive(text)
    if number > MOST_DAYS:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_DAYS}, not {text}")
    return number


def _add_keygen(parser: argparse.ArgumentParser) -> None:
    """Add the commands of `keygen` with their options."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    station = kinds.add_parser("station", help="make the station's key: a secret file that stays on its machine")
    station.add_argument("file", type=Path, metavar="FILE", help="a new file")
    client = kinds.add_parser("client", help="make a client's key, and authorise it")
    client.add_argument("name", metavar="NAME", help="the client's name, for logs and refusals")
    client.add_argument("--station", type=Path, required=True, metavar="FILE", help="the station's key file")
    client.add_argument(
        "--clients", type=Path, required=True, metavar="DIR", help="keys.clients of the station's configuration"
    )
    client.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file: the client's key, for its machine")
    client.add_argument("--control", action="store_true", help="the client may command the station, not only listen and read")
    client.add_argument("--expires", type=_day, metavar="DAY", help="the last day on which it is accepted, 2027-11-30 (none)")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a day: write it as 2027-11-30") from None


def _add_evidence(parser: argparse.ArgumentParser) -> None:
    """Add the commands of `evidence` with their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="print the kept parts, the oldest first")
    export = actions.add_parser("export", help="copy kept parts into one archive, or into a data folder for the trainer")
    for action in (listed, export):
        place = action.add_mutually_exclusive_group(required=True)
        place.add_argument("config", type=Path, nargs="?", metavar="CONFIG", help="the station's configuration file")
        place.add_argument("--folder", type=Path, metavar="DIR", help="an evidence folder, instead of CONFIG")
        action.add_argument("--since", type=moment, metavar="TIME", help="22:00, 8h, 2026-11-22T06:00 (the oldest kept)")
        action.add_argument("--until", type=moment, metavar="TIME", help="the same forms, a time of day after --since (now)")
        action.add_argument("--camera", action="append", metavar="NAME", help="only this camera; may be repeated")
        action.add_argument(
            "--outcome", action="append", type=_outcome, metavar="WHAT", help="PASS, FAIL, UNKNOWN or a reason; may be repeated"
        )
        action.add_argument("--part-id", metavar="ID", help="only parts of this id")
        action.add_argument("--limit", type=positive, metavar="N", help="the newest N of them (all)")
    dataset = actions.add_parser("dataset", help="copy the pictures of marked parts into a data folder for the trainer")
    dataset.add_argument("config", type=Path, metavar="CONFIG", help="the station's configuration file")
    dataset.add_argument("--camera", action="append", metavar="NAME", help="only this camera")
    dataset.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder; what is new is added")
    dataset.add_argument("--key", type=Path, metavar="FILE", help="this client's key, for a station that asks for one")
    dataset.set_defaults(folder=None, connect=None, control=None)
    listed.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    target = export.add_mutually_exclusive_group(required=True)
    target.add_argument("--archive", type=Path, metavar="FILE", help="a new ZIP archive of the parts' files")
    target.add_argument("--data", type=Path, metavar="DIR", help="a new folder of pictures, as `anoseg-train` takes it")


def _outcome(text: str) -> str:
    from typing import get_args

    from anosegd.wire import Outcome, Reason  # takes time to load

    known = (*get_args(Outcome), *get_args(Reason))
    if text not in known:
        raise argparse.ArgumentTypeError(f"'{text}' is unknown: give one of {', '.join(known)}")
    return text


def _address(text: str) -> str:
    from anosegd.endpoint import check_address  # needs ZeroMQ, which takes time to load

    try:
        check_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _listen(text: str) -> Address:
    from anosegd.view.address import listen_address

    try:
        return listen_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a host: give a name such as line.example, or an address")
    return text.lower()


def _shifts(text: str) -> tuple[time, ...]:
    from anosegd.view.shift import shift_starts  # takes time to load

    try:
        return shift_starts(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _threshold(text: str) -> float | None:
    """Parse a score threshold; `calibrated` is None."""
    if text == "calibrated":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a threshold: give a number above 0, up to 1, or the word calibrated")
    return value


def _pause_minutes(text: str) -> float:
    from anosegd.control.requests import MAX_PAUSE_MIN  # takes time to load

    if not 1 <= (minutes := above_zero(text)) <= MAX_PAUSE_MIN:
        raise argparse.ArgumentTypeError(f"must be from 1 to {MAX_PAUSE_MIN} minutes")
    return minutes


def _changes(text: str) -> int:
    from anosegd.control.requests import MAX_CHANGES  # takes time to load

    if (number := positive(text)) > MAX_CHANGES:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_CHANGES}")
    return number


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty: leave the option out, or give a name")
    return text


def _words(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("say it in words")
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return ""


if __name__ == "__main__":
    main()
