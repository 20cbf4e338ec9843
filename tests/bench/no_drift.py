"""Checks on your own data set that the daemon's published verdicts agree with what `anoseg-train evaluate` measures.

    python tests/bench/no_drift.py --bundle engines/store/my-part --data my-part/

It runs `anoseg-train evaluate`, then `anosegd run` over all test images with policy `wait`. The subscriber uses nothing but
pyzmq. There must be one verdict for each image, and the image AUROC of the published scores must equal that of `evaluate`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
import zmq

TOLERANCE = 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="MVTec AD layout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anoseg-") as folder:
        work = Path(folder)
        started = time.monotonic()
        evaluated = evaluate(options.bundle, options.data, work)
        between = time.monotonic()
        published = run_daemon(options.bundle, options.data / "test", work)
        ended = time.monotonic()
    images = sorted(p for p in (options.data / "test").rglob("*") if p.is_file())
    sources = [str(v["source"]) for v in published]
    once = sorted(sources) == sorted(str(p.relative_to(options.data / "test")) for p in images)
    auroc = auroc_of(published)
    difference = abs(auroc - evaluated)
    print(f"images {len(images)}, verdicts {len(published)}, one for each image: {once}")
    print(f"outcomes: { {o: sum(v['outcome'] == o for v in published) for o in ('PASS', 'FAIL', 'UNKNOWN')} }")
    print(f"image AUROC: evaluate {evaluated:.6f}, published {auroc:.6f}, difference {difference:.2e}")
    print(f"evaluate {between - started:.1f} s, daemon {ended - between:.1f} s")
    return 0 if once and difference <= TOLERANCE else 1


def evaluate(bundle: Path, data: Path, work: Path) -> float:
    command = [sys.executable, "-m", "anoseg_trainer.cli", "evaluate", "--bundle", str(bundle), "--data", str(data)]
    subprocess.run([*command, "--json", str(work / "evaluation.json")], check=True)
    return float(json.loads((work / "evaluation.json").read_text())["overall"]["image_auroc"])


def run_daemon(bundle: Path, images: Path, work: Path) -> list[dict[str, object]]:
    endpoint = f"ipc://{work}/verdicts"
    source = {"kind": "folder", "path": str(images.resolve()), "recursive": True}
    settings = {
        "engine": {"bundle": str(bundle.resolve())},
        "publish": {"endpoint": endpoint},
        "cameras": {"test": {"source": source, "policy": "wait"}},
        "exit_when_finished": True,
    }
    (work / "line.yaml").write_text(yaml.safe_dump(settings))
    verdicts = []
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.RECONNECT_IVL, 10)
        socket.set(zmq.RCVHWM, 0)
        socket.subscribe("verdict.")
        socket.connect(endpoint)
        daemon = subprocess.Popen([sys.executable, "-m", "anosegd", "run", str(work / "line.yaml")])
        while socket.poll(500) or daemon.poll() is None:
            if socket.poll(0):
                verdicts.append(json.loads(socket.recv_multipart()[1]))
        if daemon.returncode != 0:
            raise SystemExit(f"the daemon ended with exit code {daemon.returncode}")
    return verdicts


def auroc_of(verdicts: list[dict[str, object]]) -> float:
    """Share of (defective, good) pairs in which the defective part has the higher score; ties count half."""
    good = [float(v["score"]) for v in verdicts if Path(str(v["source"])).parent.name == "good"]
    bad = [float(v["score"]) for v in verdicts if Path(str(v["source"])).parent.name != "good"]
    return sum((b > g) + 0.5 * (b == g) for b in bad for g in good) / (len(good) * len(bad))


if __name__ == "__main__":
    sys.exit(main())
