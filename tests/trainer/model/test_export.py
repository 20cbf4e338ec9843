import numpy as np
import onnx
import pytest
import torch

from anoseg_engines.errors import EngineError
from anoseg_engines.placement import InputSpec, Placement, Region
from anoseg_engines.runtimes.openvino import CpuRuntime
from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.model.export import MAX_BATCH, half_precision, onnx_from_network
from anoseg_trainer.model.network import SCORE_LIMIT, AnoSegNetwork, count_macs

SPEC = InputSpec(96, 128)


@pytest.fixture(scope="module")
def network(plate):
    """A network with the activations of a trained one: norms have statistics, the map spreads over 0…1."""
    torch.manual_seed(0)
    made = AnoSegNetwork(NetworkConfig())
    with torch.no_grad():
        for _ in range(20):
            frames, coords = inputs(plate, 4, np.random.default_rng(1))
            made(torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32)))
        logits = made.eval()(torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32))).logits
        made.map_head.weight.mul_(4 / logits.std())
        made.score_scale.copy_(torch.tensor([0.7, 1.2]))
        made.score_offset.copy_(torch.tensor([-1.0, 0.5]))
    return made


def inputs(plate, n, rng, padded=False):
    """n frames uint8 and coordinates FP16; padded: of a part narrower than the input."""
    placement = Placement.of(SPEC, Region(0, 0, 64 if padded else 128, 96))
    frames = np.empty((n, SPEC.height, SPEC.width, 3), np.uint8)
    for frame in frames:
        placement.fill(plate(rng, 96, 64 if padded else 128), frame[None])
    return frames, np.repeat(placement.coords_N2HW, n, axis=0)


@pytest.fixture(scope="module")
def model(network):
    """The exported network."""
    return onnx_from_network(network, SPEC)


@pytest.mark.parametrize("n", [1, 3, MAX_BATCH])
def test_fp16_onnx_on_the_cpu_runtime_equals_the_fp32_network(network, model, plate, n):
    """Maps differ by at most 0.01 on average and 0.05 at the 99.9th percentile, scores by at most 0.01."""
    frames, coords = inputs(plate, n, np.random.default_rng(n))
    with torch.no_grad():
        maps, scores = network.inspect(torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32)))
    runtime = CpuRuntime.open(model, SPEC)
    try:
        runtime.bind(coords)[:] = frames
        got_maps, got_scores = (np.array(a, np.float32) for a in runtime.infer())
    finally:
        runtime.close()
    difference = np.abs(got_maps - maps.numpy())
    assert maps.std() > 0.1  # else equal maps would prove nothing
    assert difference.mean() <= 0.01
    assert np.quantile(difference, 0.999) <= 0.05
    assert np.abs(got_scores - scores.numpy()).max() <= 0.01


def test_padding_never_scores(network, plate):
    """Where the part is padded the map is exactly 0, and the pixels in the padding do not reach the pooling."""
    frames, coords = inputs(plate, 1, np.random.default_rng(0), padded=True)
    with torch.no_grad():
        network.map_head.bias.add_(20)  # everything looks defective
        maps, scores = network.inspect(torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32)))
        everywhere_padded = torch.full(coords.shape, 2.0)
        _, padded_scores = network.inspect(torch.from_numpy(frames), everywhere_padded)
        network.map_head.bias.sub_(20)
    assert (maps[0, :, :32] == 0).all()
    assert (maps[0, :, 96:] == 0).all()
    assert (maps[0, :, 32:96] > 0.5).any()
    assert scores[0] > 0.99
    assert padded_scores[0] == torch.sigmoid(torch.tensor(-SCORE_LIMIT))  # the lowest score there is


def test_graph_is_strongly_typed_half_precision(model):
    """Weights are FP16, inputs and outputs as the bundle's contract says, batch is free, no source paths are inside."""
    graph = onnx.load_from_string(model).graph
    kinds = {i.name: (i.type.tensor_type.elem_type, [d.dim_value for d in i.type.tensor_type.shape.dim]) for i in graph.input}
    assert kinds["frames"] == (onnx.TensorProto.UINT8, [0, 96, 128, 3])
    assert kinds["coords"] == (onnx.TensorProto.FLOAT16, [0, 2, 96, 128])
    outputs = {o.name: o.type.tensor_type.elem_type for o in graph.output}
    assert outputs == {"anomaly_map": onnx.TensorProto.FLOAT16, "score": onnx.TensorProto.FLOAT}
    large = [t for t in graph.initializer if np.prod(t.dims) > 100]
    assert large
    assert all(t.data_type == onnx.TensorProto.FLOAT16 for t in large)
    assert b"/anoseg_trainer/" not in model
    assert b".py" not in model


def test_tensorrt_rtx_accepts_and_builds_it(model):
    """TensorRT's parser takes the file and its builder makes an engine for batch 1 to 16, strongly typed."""
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    definition = builder.create_network(0 if strongly is None else 1 << int(strongly))
    parser = trt.OnnxParser(definition, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(model), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    profile = builder.create_optimization_profile()
    for name, shape in (("frames", (96, 128, 3)), ("coords", (2, 96, 128))):
        profile.set_shape(name, (1, *shape), (4, *shape), (MAX_BATCH, *shape))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(definition, config)
    assert plan is not None
    assert plan.nbytes > 100_000


def test_folding_norms_changes_nothing(network, plate):
    """BatchNorm folded into convolutions gives the same map (checked before the step to half precision)."""
    frames, coords = inputs(plate, 2, np.random.default_rng(3))
    coords32 = torch.from_numpy(coords.astype(np.float32))
    with torch.no_grad():
        before, _ = network.inspect(torch.from_numpy(frames), coords32)
        after, _ = half_precision(network).float().inspect(torch.from_numpy(frames), coords32)
    assert (before - after).abs().mean() < 2e-3


def test_weights_beyond_half_precision_are_refused(network):
    """A weight that FP16 cannot hold is refused at export, not found on the line."""
    with torch.no_grad():
        kept = network.map_head.bias.clone()
        network.map_head.bias.fill_(1e6)
        try:
            with pytest.raises(EngineError, match=r"map_head\.bias"):
                onnx_from_network(network, SPEC)
        finally:
            network.map_head.bias.copy_(kept)


def test_network_fits_a_small_machine():
    """The default network stays well below 3 GMAC at 256×256, and below 1 M parameters."""
    network = AnoSegNetwork(NetworkConfig())
    assert count_macs(network, 256, 256) < 0.8e9
    assert sum(p.numel() for p in network.parameters()) < 1e6
