"""The measurement behind the choice of the CPU runtime: ONNX Runtime and OpenVINO, in one run, in the precisions that run here.

    python tests/bench/cpu_runtimes.py [--threads 2] [--seconds 3] [--processor-time] [--json FILE]

ONNX Runtime in FP32, with the same weights, is 1.0. It measures the demo's bundle and a network of about 3 GMAC, which takes
minutes. For figures that count, nothing else may run on the machine; with --threads 1 and --processor-time, other programs
matter less. The INT8 networks are quantised here, for their speed alone: their results are not those of the bundle.
"""

import argparse
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, numpy_helper
from rich.console import Console

from anoseg_engines.benchmark import RuntimeCandidate, example, measure
from anoseg_engines.bundle import Calibration, GoldenSample, load_bundle
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_engines.commands.bench import bench_table
from anoseg_engines.errors import EngineError
from anoseg_engines.runtimes.base import Traffic
from anoseg_engines.runtimes.openvino import CpuRuntime
from anoseg_engines.runtimes.openvino_network import cpu_precisions
from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.model.detector import Detector, count_macs
from anoseg_trainer.model.export import onnx_from_detector
from anoseg_trainer.model.from_bundle import detector_from_bundle
from anoseg_trainer.model.inference import predict_part
from anoseg_trainer.model.int8 import int8_detector
from anoseg_trainer.model.network import AnoSegNetwork

DEMO = Path(__file__).parents[2] / "engines" / "store" / "demo"
BASELINE = "onnxruntime f32"


class OrtRuntime:
    """`Runtime` with ONNX Runtime, for this comparison, its inputs and outputs bound in place. single: the network in FP32."""

    traffic = Traffic()
    parallel = ()
    max_running = 1

    def __init__(self, model, spec, *, single, threads):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(in_single(model) if single else model, options, providers=["CPUExecutionProvider"])
        self._spec, self.precision = spec, "f32" if single else "f16 file"
        self.description = f"onnxruntime {ort.__version__} {self.precision}"
        self._type = np.float32 if single else np.float16

    def bind(self, coords):
        n, spec = len(coords), self._spec
        self._frames = np.zeros((n, spec.height, spec.width, 3), np.uint8)
        self._maps, self._scores = np.empty((n, spec.height, spec.width), self._type), np.empty(n, np.float32)
        self._coords = coords.astype(self._type)
        self._binding = self._session.io_binding()
        for name, array in (("frames", self._frames), ("coords", self._coords)):
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in (("anomaly_map", self._maps), ("score", self._scores)):
            self._binding.bind_output(name, "cpu", 0, array.dtype, list(array.shape), array.ctypes.data)
        self._binding.bind_cpu_input("frames", self._frames)
        return self._frames

    def infer(self):
        self._session.run_with_iobinding(self._binding)
        return self._maps, self._scores

    def close(self):
        self._session = None


def in_single(model):
    """Convert the network to FP32: its weights, and its casts to FP16."""
    graph = onnx.load_from_string(model)
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    for tensor in graph.graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == half:
                attribute.i = single
            if attribute.HasField("t") and attribute.t.data_type == half:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
    for value in (*graph.graph.input, *graph.graph.output):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single
    del graph.graph.value_info[:]
    onnx.checker.check_model(graph)
    return graph.SerializeToString()


def large_bundle(folder):
    """Write a bundle of a network of about 3 GMAC, with activations like a trained one and golden maps of its own in FP32.

    Returns the bundle and its detector.
    """
    demo = load_bundle(DEMO)
    spec, images = demo.manifest.input, [sample.image for sample in demo.golden_samples()]
    torch.manual_seed(0)
    network = AnoSegNetwork(NetworkConfig(widths=(48, 64, 112, 160, 160)))
    frames = torch.from_numpy(np.stack(images))
    coords = torch.zeros(len(images), 2, spec.height, spec.width)
    with torch.no_grad():
        for _ in range(10):
            network(frames, coords)
        logits = network.eval()(frames, coords).logits
        network.map_head.weight.mul_(3 / logits.std())
        detector = Detector(network)
        readings = [predict_part(detector, spec, image) for image in images]
    scores = [reading.score for reading in readings]
    draft = BundleDraft(
        product="large",
        input=spec,
        score="as the demo",
        score_threshold=min(scores) / 2,
        pixel_threshold=0.5,
        calibration=Calibration(method="none", n_images=0, false_reject_target=0.01, guarantee="none"),
        model_onnx=onnx_from_detector(detector, spec),
        golden=[GoldenSample(i, r.anomaly_map, r.score, "FAIL") for i, r in zip(images, readings, strict=True)],
    )
    print(f"large network: {count_macs(detector, spec.height, spec.width) / 1e9:.2f} GMAC")
    return write_bundle(folder / "large", draft), detector.eval()


def int8_model(bundle, detector):
    """Quantise the detector with ranges from the golden images, and export it."""
    spec = bundle.manifest.input
    frames = torch.from_numpy(np.stack([sample.image for sample in bundle.golden_samples()]))
    return int8_detector(detector, [(frames, torch.zeros(len(frames), 2, spec.height, spec.width))]).onnx(spec)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--processor-time", action="store_true", help="count this process's processor time, not the clock")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        demo = load_bundle(DEMO)
        for bundle, detector in ((demo, detector_from_bundle(demo)), large_bundle(Path(folder))):
            spec, model = bundle.manifest.input, bundle.model_onnx
            found, skipped = [], {}
            for single, name in ((True, BASELINE), (False, "onnxruntime f16 file")):
                found.append(
                    RuntimeCandidate.load(bundle, OrtRuntime(model, spec, single=single, threads=options.threads), name)
                )
            for precision in reversed(cpu_precisions()):
                runtime = CpuRuntime.open(model, spec, precision=precision, threads=options.threads)
                found.append(RuntimeCandidate.load(bundle, runtime, f"openvino {precision}"))
            runtime = CpuRuntime.open(int8_model(bundle, detector), spec, precision="int8", threads=options.threads)
            found.append(RuntimeCandidate("openvino int8", "int8", golden="–", runtime=runtime, inputs=example(bundle)))
            for precision in sorted({"f16", "bf16"} - set(cpu_precisions())):
                try:
                    CpuRuntime.open(model, spec, precision=precision)
                except EngineError as error:
                    skipped[f"openvino {precision}"] = error.what
            report = measure(
                bundle,
                found,
                skipped,
                batches=(1, 4, 16),
                seconds=options.seconds,
                threads=options.threads,
                baseline=BASELINE,
                clock=time.process_time if options.processor_time else time.perf_counter,
            )
            reports.append(report)
            Console(width=200).print(bench_table(report), skipped)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(reports), indent=1))


if __name__ == "__main__":
    main()
