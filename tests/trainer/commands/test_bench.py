"""PyTorch in the benchmark computes the same as the bundle's runtimes."""

import dataclasses

import msgspec
import numpy as np
import torch

from anoseg_engines.benchmark import example
from anoseg_engines.bundle import load_bundle
from anoseg_engines.runtimes.openvino import CpuRuntime
from anoseg_trainer.commands.bench import TorchCandidate, torch_candidates
from anoseg_trainer.model.detector import POOLS
from anoseg_trainer.model.from_bundle import detector_from_bundle


def test_the_network_of_a_bundle_in_pytorch_gives_the_same_map(trained):
    """Weights read back from a bundle's ONNX file: map and score as the CPU runtime's in FP32."""
    bundle = load_bundle(trained[0])
    frames, coords = example(bundle)
    runtime = CpuRuntime.open(bundle.model_onnx, bundle.manifest.input)
    runtime.bind(coords)[:] = frames
    maps, scores = (np.array(a, np.float32) for a in runtime.infer())
    runtime.close()
    with torch.no_grad():
        found = detector_from_bundle(bundle).inspect(torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32)))
    assert np.abs(found[0].numpy() - maps).max() < 5e-3
    assert np.abs(found[1].numpy() - scores).max() < 1e-3


def test_both_precisions_run_at_every_batch(trained):
    """FP32 and bf16 in PyTorch take the batches of the benchmark, and give a map and a score for each part."""
    bundle = load_bundle(trained[0])
    for dtype in (torch.float32, torch.bfloat16):
        maps, scores = TorchCandidate(bundle, dtype, "cpu").prepare(2)()
        assert maps.shape == (2, 96, 128)
        assert scores.shape == (2,)


def test_the_pools_are_read_from_the_bundle(trained):
    """A network whose map has other pools than this version's is rebuilt with those that its bundle names."""
    bundle = load_bundle(trained[0])
    assert detector_from_bundle(bundle).pools == POOLS
    pools = [[2, 16], [8, 2], [16, 1], [32, 1]]
    record = bundle.manifest.training["detector"] | {"pools": pools}
    training = bundle.manifest.training | {"detector": record}
    other = dataclasses.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, training=training))
    assert detector_from_bundle(other).pools == tuple(map(tuple, pools))


def test_a_bundle_that_pytorch_cannot_run_is_measured_without_it(trained):
    """Its runtimes are measured all the same; the table says why PyTorch is missing."""
    bundle = load_bundle(trained[0])
    record = bundle.manifest.training["detector"] | {"pools": [[2, 16]]}
    training = bundle.manifest.training | {"detector": record}
    other = dataclasses.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, training=training))
    found, missing = torch_candidates(other)
    assert found == []
    assert "PyTorch cannot run this bundle's network" in missing["pytorch"]
