"""`anosegd`: check, run, tail, status, replay, export, drain, reload, swap, rollback, trigger, prove, cameras, schema, demo.

Every command imports what it needs when it runs: `run` blocks the signals before any library can start a thread.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from anoseg_engines.errors import AnosegError

if TYPE_CHECKING:
    from anosegd.commands.requests import Where
    from anosegd.config import Config


def main() -> None:
    """Entry point of `anosegd`; exits with the error's code."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()  # a reader that has gone is noticed here, not at the interpreter's end
    except AnosegError as error:
        _complain(f"anosegd: {error}")
        code = error.exit_code
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _complain(text: str) -> None:
    from anosegd import logs

    print(logs.as_error(text) if logs.is_journal(sys.stderr, os.environ.get("JOURNAL_STREAM")) else text, file=sys.stderr)


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    command = {
        "check": _check,
        "run": _run,
        "tail": _tail,
        "status": _status,
        "cameras": _cameras,
        "schema": _schema,
        "replay": _replay,
        "export": _export,
        "drain": _ask,
        "reload": _ask,
        "swap": _swap,
        "rollback": _ask,
        "trigger": _trigger,
        "prove": _ask,
        "demo": _demo,
        "demo-images": _demo_images,
    }[options.command]
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="anosegd", description="Inspect parts and publish verdicts over ZeroMQ.")
    commands = parser.add_subparsers(dest="command", required=True)

    check = commands.add_parser("check", help="validate a configuration and its bundle without opening a camera")
    check.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/reference.yaml")

    start = commands.add_parser("run", help="inspect and publish until stopped")
    start.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/reference.yaml")
    start.add_argument("--once", action="store_true", help="stop when every folder and file has come to its end")
    start.add_argument("--verbose", action="store_true", help="log details too")

    tail = commands.add_parser("tail", help="show verdicts as they come")
    tail.add_argument("--count", type=_positive, metavar="N", help="stop after N verdicts")
    status = commands.add_parser("status", help="show how a running station is")
    status.add_argument("--timeout", type=float, default=3.0, metavar="S", help="how long to wait for a heartbeat (3)")
    tail.add_argument("--since", type=_moment, metavar="TIME", help="begin with the journal: 06:00, 8h, 2026-11-22T06:00")
    replay = commands.add_parser("replay", help="print committed verdicts from the journal as JSON lines")
    replay.add_argument("--from", type=_positive, default=1, metavar="N", help="first number (the oldest kept)")
    replay.add_argument("--to", type=_positive, metavar="N", help="last number (the newest)")
    export = commands.add_parser("export", help="write the journal's verdicts of a time, a shift say, as CSV")
    export.add_argument("--csv", type=Path, required=True, metavar="FILE", help="a new file")
    export.add_argument("--since", type=_moment, metavar="TIME", help="06:00, 8h, 2026-11-22T06:00 (the oldest kept)")
    export.add_argument("--until", type=_moment, metavar="TIME", help="the same forms (now)")
    drain = commands.add_parser("drain", help="have the daemon finish what was captured, and end with exit code 0")
    reload = commands.add_parser("reload", help="have the daemon read its configuration anew; waits, and says why if refused")
    swap = commands.add_parser("swap", help="inspect with another bundle from one part to the next; waits, says why if refused")
    swap.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="STORE/NAME (newest) or STORE/NAME/VERSION")
    rollback = commands.add_parser("rollback", help="go back to the bundle before the last swap")
    prove = commands.add_parser("prove", help="run the golden images again, between parts; waits, and says what does not hold")
    trigger = commands.add_parser("trigger", help="tell a camera that waits for triggers that a part lies there")
    trigger.add_argument("--camera", required=True, metavar="NAME")
    trigger.add_argument("--part-id", metavar="ID", help="the part's name in its verdict (one is made)")
    for command in (tail, status, replay, export, drain, reload, swap, rollback, trigger, prove):
        where = command.add_mutually_exclusive_group()
        where.add_argument("config", type=Path, nargs="?", metavar="CONFIG", help="the station's configuration file")
        where.add_argument("--connect", metavar="ENDPOINT", help="where it publishes, by default tcp://127.0.0.1:5570")
        command.add_argument("--control", metavar="ENDPOINT", help="where it answers, by default tcp://127.0.0.1:5571")
    for command in (tail, status):
        command.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    reload.add_argument("--wait", action="store_true", help="for systemd's ExecReload; reload always waits for the answer")

    cameras = commands.add_parser("cameras", help="list the cameras at this machine; with CONFIG, open each and save a picture")
    cameras.add_argument("config", type=Path, nargs="?", metavar="CONFIG", help="probe the cameras of this configuration")
    cameras.add_argument("--out", type=Path, default=Path("cameras"), metavar="DIR", help="folder for the pictures (cameras)")

    commands.add_parser("schema", help="print the JSON Schema of the published headers")

    demo = commands.add_parser("demo", help="inspect a simulated line and compare the verdicts with the truth")
    demo.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder for pictures, configuration and log (demo-out)"
    )
    demo.add_argument("--parts", type=_positive, default=200, help="how many parts (200)")
    demo.add_argument("--fps", type=float, default=8.0, help="parts a second (8)")
    demo.add_argument("--seed", type=int, default=7, help="another seed, other parts (7)")
    demo.add_argument("--bundle", type=Path, help="another bundle than the one committed for the demo")
    images = commands.add_parser("demo-images", help="render the images the demo's bundle is trained on")
    images.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    return parser


def _check(options: argparse.Namespace) -> int:
    from anoseg_engines.errors import ConfigError
    from anosegd.check import check_whole
    from anosegd.config import load_config
    from anosegd.inspection.rule_calibration import rules_note
    from anosegd.journal import check_place

    config = load_config(options.config)
    engine = check_whole(config, journal=False)
    try:
        print(f"{options.config}: valid")
        print(f"  engine {engine.description}, proved on its golden images")
        print(f"  runtime {engine.runtime_name}: {engine.why}")
    finally:
        engine.close()
    for name, camera in config.cameras.items():
        print(f"  camera {name}: {type(camera.source).__struct_config__.tag}, policy {camera.policy}")
        if note := rules_note(camera, engine.bundle):
            print(f"    {len(camera.rules)} {note}")
    if config.journal is not None:
        try:
            print(f"  journal {check_place(config.journal)}")
        except ConfigError as error:  # under systemd the folder is made when the service starts
            print(f"  not yet: {error.what}; the service makes /var/lib/anoseg/STATION, any other folder is yours to make")
    print(f"  publishes at {config.publish.endpoint}")
    return 0


def _run(options: argparse.Namespace) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

    import msgspec

    from anosegd import logs
    from anosegd.check import check_surroundings
    from anosegd.commands import run as life
    from anosegd.config import load_config

    logs.set_up(level=logs.DEBUG if options.verbose else logs.INFO, journal=os.environ.get("JOURNAL_STREAM"))
    config = load_config(options.config)
    check_surroundings(config)
    if options.once:
        config = msgspec.structs.replace(config, exit_when_finished=True)
    return life.run(config, os.environ, lambda: _reread(options))


def _reread(options: argparse.Namespace) -> Config:
    """The configuration as it is on disk now, checked whole."""
    import msgspec

    from anosegd.check import check_whole
    from anosegd.config import load_config

    config = load_config(options.config)
    check_whole(config).close()
    return msgspec.structs.replace(config, exit_when_finished=True) if options.once else config


def _tail(options: argparse.Namespace) -> int:
    from anosegd.commands import tail

    station = _where(options)
    if options.json:
        tail.print_lines(station, options.count, options.since)
    else:
        tail.show_table(station, options.count, options.since)
    return 0


def _replay(options: argparse.Namespace) -> int:
    from anosegd.commands import requests as history

    history.print_lines(_where(options), getattr(options, "from"), options.to)
    return 0


def _export(options: argparse.Namespace) -> int:
    from anosegd.commands import requests as history

    rows = history.export_csv(_where(options), options.csv, options.since, options.until)
    print(f"{rows} verdicts in {options.csv}")
    return 0


def _ask(options: argparse.Namespace) -> int:
    from anosegd.commands import requests as history

    history.ask(_where(options), options.command)
    print(f"{options.command}: done")
    return 0


def _swap(options: argparse.Namespace) -> int:
    from anosegd.commands import requests as history

    history.ask(_where(options), "swap", bundle=str(options.bundle.absolute()))
    print(f"swap: inspecting with {options.bundle}")
    return 0


def _trigger(options: argparse.Namespace) -> int:
    from anosegd.commands import requests as history

    part = {"part_id": options.part_id} if options.part_id else {}
    print(f"trigger: part {history.ask(_where(options), 'trigger', camera=options.camera, **part)['part_id']}")
    return 0


def _status(options: argparse.Namespace) -> int:
    from rich.console import Console

    from anosegd.commands import status

    state = status.hear_state(_where(options).publish, options.timeout)
    if options.json:
        print(status.as_json(state))
    else:
        Console().print(status.as_table(state))
    return 0


def _cameras(options: argparse.Namespace) -> int:
    from anoseg_engines.errors import CameraError
    from anosegd.commands.cameras import probe
    from anosegd.config import check_sources, load_config

    if options.config is None:
        return _list_cameras()
    config = load_config(options.config)
    check_sources(config)
    failed = False
    for name, camera in config.cameras.items():
        try:
            found = probe(name, camera, options.out)
        except CameraError as error:
            failed = True
            print(f"anosegd: {error}", file=sys.stderr)
            continue
        rate = f", {found.fps:.1f} frames a second" if found.fps else ""
        print(f"{name}: {found.description}: {found.width}×{found.height}{rate}; picture in {found.picture}")
    return 1 if failed else 0


def _list_cameras() -> int:
    from anoseg_engines.errors import ConfigError
    from anosegd.capture.sources.aravis import list_genicam
    from anosegd.capture.sources.devices import list_devices

    devices = list_devices()
    for device in devices:
        serial = f", serial {device.serial}" if device.serial else ""
        print(f"{device.stable_path or device.path}: {device.name}{serial}")
    if not devices:
        print("no video devices at this machine; give a CONFIG to try its streams")
    try:
        for camera in list_genicam():
            where = f" at {camera.address}" if camera.protocol == "GigEVision" else ""
            print(f"genicam {camera.id}: {camera.vendor} {camera.model}, {camera.protocol}{where}, serial {camera.serial}")
    except ConfigError as error:
        print(f"GigE Vision and USB3 Vision cameras were not looked for: {error}")
    return 0


def _schema(options: argparse.Namespace) -> int:
    from anosegd.wire import schemas

    print(json.dumps(schemas(), indent=2))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from anosegd.demo.run import run_demo

    return run_demo(options.out, parts=options.parts, fps=options.fps, seed=options.seed, bundle=options.bundle)


def _demo_images(options: argparse.Namespace) -> int:
    from anosegd.demo.images import write_demo_images

    print(f"{write_demo_images(options.out)} images in {options.out}")
    return 0


def _where(options: argparse.Namespace) -> Where:
    from anosegd.commands.requests import Where
    from anosegd.config import DEFAULT_CONTROL, DEFAULT_ENDPOINT, load_config

    if options.config is not None:
        config = load_config(options.config)
        return Where(config.publish.endpoint, config.control.endpoint if config.control else None)
    return Where(str(options.connect or DEFAULT_ENDPOINT), options.control or (None if options.connect else DEFAULT_CONTROL))


def _moment(text: str) -> datetime:
    """Local time unless it says otherwise: `2026-11-22T06:00`, `06:00` (today), `8h`, `30m` (ago)."""
    now = datetime.now().astimezone()
    if re.fullmatch(r"\d+[smhd]", text):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[text[-1]]
        return now - timedelta(**{unit: int(text[:-1])})
    if re.fullmatch(r"\d{1,2}:\d{2}", text):
        return now.replace(hour=int(text.split(":")[0]), minute=int(text.split(":")[1]), second=0, microsecond=0)
    return datetime.fromisoformat(text).astimezone()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    main()
