"""INT8: what PyTorch computes with quantised convolutions, the ONNX file says and the runtimes compute."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.paths import DEMO
from support.tiny_bundle import tiny_draft

from anoseg_engines.bundle import GoldenSample, load_bundle
from anoseg_engines.bundle_writer import BundleDraft, Int8Draft, write_bundle
from anoseg_engines.errors import EngineError, PrecisionError, SelfTestError
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import InputSpec, Region
from anoseg_engines.runtimes.openvino import CpuRuntime
from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.model.detector import Detector
from anoseg_trainer.model.encoder import load_encoder, packaged_weights, rounded
from anoseg_trainer.model.export import OPSET, onnx_from_detector
from anoseg_trainer.model.inference import predict_part
from anoseg_trainer.model.int8 import NOT_QUANTISED, int8_detector
from anoseg_trainer.model.memory import Memory, MemoryConfig
from anoseg_trainer.model.network import AnoSegNetwork
from anoseg_trainer.model.whole_image import WholeImage

SPEC = InputSpec(96, 128)


@pytest.fixture(scope="module")
def parts(plate):
    """Eight plates."""
    rng = np.random.default_rng(1)
    return [plate(rng) for _ in range(8)]


@pytest.fixture(scope="module")
def detector(parts):
    """A network on the pretrained encoder, with a memory and a whole-image model, and activations like a trained one."""
    torch.manual_seed(0)
    network = AnoSegNetwork(NetworkConfig(widths=(16, 16, 32, 32, 32)), encoder=rounded(load_encoder(packaged_weights())))
    frames, coords = torch.from_numpy(np.stack(parts)), torch.zeros(len(parts), 2, SPEC.height, SPEC.width)
    with torch.no_grad():
        for _ in range(10):
            network(frames, coords)
        network.map_head.weight.mul_(0.7 / network.eval()(frames, coords).logits.std())
    found = Detector(network, memory=Memory(MemoryConfig(vectors=60)), whole_image=WholeImage()).eval()
    found.score_scale.copy_(torch.tensor([0.3, 0.3, 0.3, 0.3, 0.01, 0.001]))
    return found


@pytest.fixture(scope="module")
def int8(detector, parts):
    """The detector, quantised."""
    coords = torch.zeros(4, 2, SPEC.height, SPEC.width)
    return int8_detector(detector, [(torch.from_numpy(np.stack(parts[i : i + 4])), coords) for i in (0, 4)])


@pytest.fixture(scope="module")
def model(int8):
    """Its ONNX file."""
    return int8.onnx(SPEC)


def test_each_convolution_has_integers_in_the_file(int8, model):
    """Its input is quantised with zero point 0, its weights are INT8 with a scale for each output channel."""
    graph = onnx.load_from_string(model)
    assert [opset.version for opset in graph.opset_import] == [OPSET]
    made_by = {node.output[0]: node for node in graph.graph.node}
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    found = [node for node in graph.graph.node if node.op_type == "Conv" and node.input[1].endswith("_dequantised")]
    assert len(found) == len(int8.scales) > 50
    for node in found:
        given, weights = made_by[node.input[0]], made_by[node.input[1]]
        assert (given.op_type, made_by[given.input[0]].op_type, weights.op_type) == (
            "DequantizeLinear", "QuantizeLinear", "DequantizeLinear",
        )  # fmt: skip
        assert values[given.input[2]] == 0
        assert values[given.input[2]].dtype == np.int8
        assert (values[weights.input[0]].dtype, weights.attribute[0].i) == (np.int8, 0)
        assert values[weights.input[1]].shape == values[weights.input[0]].shape[:1]


def test_the_comparison_with_good_parts_is_not_quantised(int8, model):
    """The products of the memory and of its projections keep their type."""
    assert not [name for name in int8.scales if any(part in name for part in NOT_QUANTISED)]
    kept = {node.input[1] for node in onnx.load_from_string(model).graph.node if node.op_type == "Conv"}
    assert any("projections" in name for name in kept)


def test_the_quantised_detector_stays_close(detector, int8, parts):
    """Its map differs little from the detector's."""
    for part in parts[:3]:
        before, after = (predict_part(d, SPEC, part).anomaly_map for d in (detector, int8.detector))
        assert np.abs(before - after).mean() < 0.03


def test_openvino_computes_what_pytorch_does(int8, model, parts):
    """In the quantised file, convolutions run in INT8, and map and score are within the self-test's tolerance."""
    runtime = CpuRuntime.open(model, SPEC, precision="int8")
    assert runtime.layers["int8"] == len(int8.scales)
    for part in parts[:3]:
        coords = np.zeros((1, 2, SPEC.height, SPEC.width), np.float16)
        with torch.no_grad():
            theirs = int8.detector.inspect(torch.from_numpy(part[None]), torch.from_numpy(coords.astype(np.float32)))
        runtime.bind(coords)[:] = part
        maps, scores = runtime.infer()
        assert abs(float(scores[0]) - float(theirs[1][0])) < 0.03
        assert np.quantile(np.abs(maps[0] - theirs[0][0].numpy()), 0.999) < 0.1
    runtime.close()


def test_a_network_without_integers_is_refused_as_int8(exported):
    """A file that is not quantised does not run as INT8."""
    with pytest.raises(PrecisionError, match="int8 was asked for"):
        CpuRuntime.open(exported, SPEC, precision="int8")


def test_tensorrt_reads_the_file(model):
    """TensorRT's parser takes the quantised network as a strongly typed one, and its builder builds it."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name, shape in (("frames", (1, 96, 128, 3)), ("coords", (1, 2, 96, 128))):
        profile.set_shape(name, shape, shape, shape)
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


@pytest.fixture(scope="module")
def exported(detector):
    """The ONNX file of the detector that is not quantised."""
    return onnx_from_detector(detector, SPEC)


def draft_of(detector, exported, model, parts, score_wrong_by=0.0):
    """A draft of a bundle with both networks."""
    found = [predict_part(detector, SPEC, part) for part in parts[:2]]
    first = [GoldenSample(part, f.anomaly_map, f.score, "PASS") for part, f in zip(parts, found, strict=False)]
    second, runtime = [], CpuRuntime.open(model, SPEC, precision="int8")
    for part in parts[:2]:
        runtime.bind(np.zeros((1, 2, SPEC.height, SPEC.width), np.float16))[:] = part
        maps, scores = runtime.infer()
        second.append(GoldenSample(part, np.array(maps[0]), float(scores[0]), "PASS"))
    runtime.close()
    wrong = [dataclasses.replace(sample, score=sample.score + score_wrong_by) for sample in second]
    return dataclasses.replace(
        tiny_draft(),
        input=SPEC,
        score_threshold=min(1.0, max(sample.score for sample in (*first, *second)) + 0.05),
        model_onnx=exported,
        golden=first,
        int8=Int8Draft(model_onnx=model, golden=wrong, image_auroc=0.99, image_auroc_of_first=0.99),
    )


def test_a_bundle_has_both_networks(detector, exported, model, parts, tmp_path):
    """`cpu-int8` runs the second one, with its own golden maps; `cpu` and `auto` never choose it."""
    bundle = write_bundle(tmp_path / "store" / "both", draft_of(detector, exported, model, parts))
    assert bundle.manifest.schema_version == 4
    engine = load_engine(bundle, runtime="cpu-int8")
    assert engine.precision == "int8"
    score = engine.inspect(parts[0], engine.place(Region(0, 0, 128, 96))).score
    assert abs(score - bundle.int8.golden[0].score) < 0.03
    engine.close()
    for runtime in ("cpu", "auto"):
        engine = load_engine(bundle, runtime=runtime)
        assert engine.precision != "int8"
        engine.close()
    assert BundleDraft.of(bundle).int8 is None


def test_an_int8_network_that_fails_its_self_test_is_not_written(detector, exported, model, parts, tmp_path):
    """Its results differ from what the trainer computed: nothing is written."""
    with pytest.raises(SelfTestError, match="int8"):
        write_bundle(tmp_path / "store" / "both", draft_of(detector, exported, model, parts, score_wrong_by=0.2))
    assert not (tmp_path / "store" / "both").exists()


def test_a_bundle_without_int8_says_how_to_get_one(tmp_path):
    """Bundles made before load as before; `cpu-int8` is refused with what to do. Exit code 3."""
    bundle = load_bundle(DEMO)
    assert bundle.int8 is None
    with pytest.raises(EngineError, match=r"(?s)has no INT8 network.*int8: true") as caught:
        load_engine(bundle, runtime="cpu-int8")
    assert caught.value.exit_code == 3
