"""Image AUROC of a bundle on the selected runtime, against the FP32 PyTorch network from which it was exported.

    python tests/bench/precision_parity.py --bundle STORE/NAME --work RUNS/NAME --data DIR [--runtime cpu] [--limit 0.002]

--work: the folder of the training's checkpoint. Both inspect every test image, which takes minutes. Exits 1 if the AUROC
differs by more than the limit.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
from sklearn.metrics import roc_auc_score

from anoseg_engines.bundle import load_bundle
from anoseg_engines.images import read_image
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Region
from anoseg_engines.runtimes.select import RUNTIMES
from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.data.evaluation_images import find_evaluation_images
from anoseg_trainer.model.checkpoint import load_checkpoint
from anoseg_trainer.model.from_bundle import detector_from_bundle
from anoseg_trainer.model.inference import predict_part
from anoseg_trainer.model.network import AnoSegNetwork


def trained_detector(work, bundle):
    """Load the bundle's detector with the FP32 network of the checkpoint; encoder and memory keep the bundle's FP16 weights."""
    detector = detector_from_bundle(bundle)
    record = bundle.manifest.training["config"]
    network = AnoSegNetwork(
        msgspec.convert(record["network"], NetworkConfig),
        coordinates=record["coordinates"],
        encoder=detector.network.backbone.encoder,
        reads_memory=detector.network.from_memory is not None,
    )
    network.load_state_dict(network.state_dict() | load_checkpoint(work)["best"])
    detector.network = network
    return detector.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bundle", "work", "data"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--runtime", default="auto", choices=RUNTIMES)
    parser.add_argument("--limit", type=float, default=0.002)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    network, engine = trained_detector(options.work, bundle), load_engine(bundle, runtime=options.runtime)
    labels, theirs, ours, start = [], [], [], time.monotonic()
    for test in find_evaluation_images(options.data):
        image = read_image(test.path)
        height, width = image.shape[:2]
        theirs.append(predict_part(network, bundle.manifest.input, image).score)
        ours.append(engine.inspect(image, engine.place(Region(0, 0, width, height))).score)
        labels.append(test.defect != "good")
    labels, theirs, ours = np.array(labels), np.array(theirs), np.array(ours)
    both = {"pytorch f32": float(roc_auc_score(labels, theirs)), engine.runtime_description: float(roc_auc_score(labels, ours))}
    shift = ours[~labels] - theirs[~labels]
    limit = engine.thresholds.score
    found = {
        "images": len(labels),
        "good": int((~labels).sum()),
        "image_auroc": both,
        "auroc_difference": abs(both["pytorch f32"] - both[engine.runtime_description]),
        "score_difference": {"mean": float(np.abs(ours - theirs).mean()), "max": float(np.abs(ours - theirs).max())},
        "good_parts_score_higher_by": {
            "mean": float(shift.mean()),
            "p99": float(np.quantile(shift, 0.99)),
            "max": float(shift.max()),
        },
        "verdicts_that_differ": int(((ours >= limit) != (theirs >= limit)).sum()),
        "false_rejects": {"pytorch f32": int((theirs[~labels] >= limit).sum()), "runtime": int((ours[~labels] >= limit).sum())},
        "seconds": round(time.monotonic() - start),
    }
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    engine.close()
    sys.exit(found["auroc_difference"] > options.limit)


if __name__ == "__main__":
    main()
