import copy
import re
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest
import torch

from anoseg_engines.errors import EngineError
from anoseg_engines.placement import InputSpec, Placement, Region
from anoseg_engines.runtimes.openvino import CpuRuntime
from anoseg_engines.runtimes.openvino_network import cpu_precisions
from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.model.detector import NO_LEVEL, SCORE_LIMIT, Detector, count_macs, network_level
from anoseg_trainer.model.encoder import encoder_input, load_encoder, packaged_weights, rounded
from anoseg_trainer.model.export import MAX_BATCH, OPSET, half_precision, onnx_from_detector
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.model.from_bundle import detector_from_bundle, detector_record
from anoseg_trainer.model.memory import CHUNK, Features, Memory, MemoryConfig, standardise
from anoseg_trainer.model.memory_build import build_memory
from anoseg_trainer.model.network import AnoSegNetwork, valid_pixels
from anoseg_trainer.model.place_gaussians import PlaceGaussians, fit_alignment
from anoseg_trainer.model.whole_image import WholeImage

SPEC = InputSpec(96, 128)


@pytest.fixture(scope="module")
def detectors(plate):
    """Detectors with the activations of trained ones: norms have statistics, the map spreads over 0…1."""
    torch.manual_seed(0)  # the first weights are random
    encoder = rounded(load_encoder(packaged_weights()))
    filters = FixedFilters()
    scratch, filtered, pretrained, reading = (
        AnoSegNetwork(NetworkConfig(), encoder=copy.deepcopy(e), reads_memory=reads)
        for e, reads in ((None, False), (filters, False), (encoder, False), (encoder, True))
    )
    assert reading.from_memory is not None
    reading.from_memory.requires_grad_(False)
    for layer in reading.from_memory:
        layer.weight.mul_(0.1)
    for network in (scratch, filtered, pretrained, reading):
        torch.manual_seed(0)
        with torch.no_grad():
            for _ in range(20):
                frames, coords = inputs(plate, 4, np.random.default_rng(1))
                network(torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32)))
            logits = network.eval()(torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32))).logits
            network.map_head.weight.mul_(4 / logits.std())
    memory, whole = good_parts(encoder, plate)
    memory_of_filters, whole_of_filters = good_parts(filters, plate)
    _, whole_of_turned = good_parts(filters, plate, turned=True)
    places = gaussians_of_places(encoder, plate)
    found = {
        "scratch": Detector(scratch),
        "all views": Detector(pretrained, memory=memory, whole_image=whole),
        "memory read by the network": Detector(reading, memory=memory, whole_image=whole),
        "filters in the network alone": Detector(copy.deepcopy(filtered)),
        "fixed filters": Detector(filtered, memory=memory_of_filters, whole_image=whole_of_filters),
        "without a network": Detector(None, encoder=encoder, memory=memory, whole_image=whole),
        "turned parts": Detector(None, encoder=FixedFilters(), memory=memory_of_filters, whole_image=whole_of_turned),
        "aligned parts": Detector(pretrained, memory=memory, whole_image=whole, places=places),
        "aligned parts, no network": Detector(None, encoder=encoder, memory=memory, whole_image=whole, places=places),
    }
    pools = [0.3, 0.3, 0.3, 0.3]
    for name, detector in found.items():
        views = [] if detector.memory is None else [1.0, 0.2] if detector.places is None else [0.3, 0.1, 0.2]
        start = [] if detector.network is None else pools
        detector.score_scale.copy_(torch.tensor(start + views))
        detector.score_offset.fill_(-1.0)
        if name in ("all views", "memory read by the network", "fixed filters"):
            detector.map_gain.fill_(3.0)
            detector.level_limit.copy_(median_level(detector, plate))
        if name == "memory read by the network":
            detector.view_limits.fill_(1.0)
            detector.view_floors.fill_(-0.5)
        if detector.network is None:
            detector.map_gain.fill_(12.0)
            detector.map_offset.fill_({"turned parts": -2.0, "aligned parts, no network": -3.0}.get(name, -5.0))
        if detector.places is not None:
            detector.places_gain.fill_(0.6)
        detector.eval()
    return found


def features_of_plates(encoder, plate):
    """Features of some plates, in three batches."""
    rng = np.random.default_rng(4)
    for start in (0, 8, 16):
        frames = torch.from_numpy(np.stack([plate(rng) for _ in range(8)]))
        valid = torch.ones(8, SPEC.height, SPEC.width, dtype=torch.bool)
        with torch.no_grad():
            levels = encoder(encoder_input(frames, torch.float32))
        yield Features(levels, torch.arange(start, start + 8), valid)


def gaussians_of_places(encoder, plate):
    """Gaussians of places of some plates."""
    batches = list(features_of_plates(encoder, plate))
    places = PlaceGaussians(SPEC.height, SPEC.width, encoder.channels)
    fit_alignment(places, batches[:2], torch.Generator().manual_seed(0))
    places.fit([vectors for batch in batches[:2] for vectors in places.embed(batch.levels)], 16)
    distances = places.distance(places.embed(batches[2].levels))
    places.standardise(distances.flatten(1).amax(dim=1), distances.flatten())
    return places


def good_parts(encoder, plate, turned=False):
    """A memory and a whole-image model of some plates; turned: one that does not see how plates are turned."""
    batches = list(features_of_plates(encoder, plate))
    config = MemoryConfig(strides=(8, 16), vectors=700, dims=32)
    memory = build_memory(batches[:2], batches[:2], config, images=16, seed=0, channels=encoder.channels).memory
    standardise(memory, batches[2:])
    whole = WholeImage((8, 16, 32), even=not turned, channels=encoder.channels, turned=turned)
    measures = [whole.measures(batch.levels, batch.valid) for batch in batches]
    whole.fit(torch.cat(measures[:2]), measures[2])
    return memory, whole


def median_level(detector, plate):
    """The median level of the network's map on some plates: it is above this on some inputs, and below it on others."""
    frames, coords = inputs(plate, 8, np.random.default_rng(3))
    given = torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32))
    valid = valid_pixels(given[1])
    with torch.no_grad():
        levels = network_level(detector.eval().parts(*given, valid)[0], valid)
    assert levels.min() < levels.median() < levels.max()
    return levels.median()


KINDS = (
    "scratch",
    "all views",
    "memory read by the network",
    "filters in the network alone",
    "fixed filters",
    "without a network",
    "turned parts",
    "aligned parts",
    "aligned parts, no network",
)


@pytest.fixture(scope="module", params=KINDS)
def exported(request, detectors):
    """Each detector and its ONNX file."""
    return detectors[request.param], onnx_from_detector(detectors[request.param], SPEC)


def inputs(plate, n, rng, padded=False):
    """n frames uint8 and coordinates FP16; padded: of a part narrower than the input."""
    placement = Placement.of(SPEC, Region(0, 0, 64 if padded else 128, 96))
    frames = np.empty((n, SPEC.height, SPEC.width, 3), np.uint8)
    for frame in frames:
        placement.fill(plate(rng, 96, 64 if padded else 128), frame[None])
    return frames, np.repeat(placement.coords_N2HW, n, axis=0)


@pytest.mark.parametrize("n", [1, 3, MAX_BATCH])
def test_fp16_onnx_on_the_cpu_runtime_equals_the_fp32_detector(exported, plate, n):
    """Maps differ by at most 0.01 on average and 0.05 at the 99.9th percentile, scores by at most 0.01."""
    detector, model = exported
    frames, coords = inputs(plate, n, np.random.default_rng(n))
    with torch.no_grad():
        maps, scores = detector.inspect(torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32)))
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


@pytest.mark.skipif("bf16" not in cpu_precisions(), reason="the processor does not compute in bf16")
@pytest.mark.parametrize("kind", ["all views", "fixed filters"])
def test_in_bf16_features_stay_f32(detectors, plate, kind):
    """Only the trained network and the memory's products run in bf16: their convolutions are counted, and map and score stay
    near those of FP32."""
    detector = detectors[kind]
    frames, coords = inputs(plate, 2, np.random.default_rng(8))
    with torch.no_grad():
        maps, scores = detector.inspect(torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32)))
    runtime = CpuRuntime.open(onnx_from_detector(detector, SPEC), SPEC, precision="bf16")
    try:
        runtime.bind(coords)[:] = frames
        got_maps, got_scores = (np.array(a, np.float32) for a in runtime.infer())
        layers = runtime.layers
    finally:
        runtime.close()
    own = [name for name, module in detector.network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    trained = [name for name in own if ".encoder." not in name and "image_head" not in name]
    # Joined inputs are convolved one by one: three of the stem, and two of the layer that brings each level to its width.
    backbone = detector.network.backbone
    split = 2 + len(backbone.from_filters if kind == "fixed filters" else backbone.lateral)
    products = -(-len(detector.memory.nearest.weight) // CHUNK)
    assert layers["bf16"] == len(trained) + split + products
    assert layers["f32"] >= 10
    assert np.abs(got_maps - maps.numpy()).mean() <= 0.02
    assert np.abs(got_scores - scores.numpy()).max() <= 0.05


def test_padding_never_scores(detectors, plate):
    """Where the part is padded the map is exactly 0, and the pixels in the padding do not reach the pooling."""
    detector = detectors["scratch"]
    network = detector.network
    frames, coords = inputs(plate, 1, np.random.default_rng(0), padded=True)
    with torch.no_grad():
        network.map_head.bias.add_(20)  # everything looks defective
        maps, scores = detector.inspect(torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32)))
        everywhere_padded = torch.full(coords.shape, 2.0)
        _, padded_scores = detector.inspect(torch.from_numpy(frames), everywhere_padded)
        network.map_head.bias.sub_(20)
    assert (maps[0, :, :32] == 0).all()
    assert (maps[0, :, 96:] == 0).all()
    assert (maps[0, :, 32:96] > 0.5).any()
    assert scores[0] > 0.99
    assert padded_scores[0] == torch.sigmoid(torch.tensor(-SCORE_LIMIT))  # the lowest score there is


def test_graph_is_strongly_typed_half_precision(exported):
    """Weights are FP16, inputs and outputs as the bundle's contract says, batch is free, no source paths are inside."""
    _, model = exported
    graph = onnx.load_from_string(model).graph
    kinds = {i.name: (i.type.tensor_type.elem_type, [d.dim_value for d in i.type.tensor_type.shape.dim]) for i in graph.input}
    assert kinds["frames"] == (onnx.TensorProto.UINT8, [0, 96, 128, 3])
    assert kinds["coords"] == (onnx.TensorProto.FLOAT16, [0, 2, 96, 128])
    outputs = {o.name: o.type.tensor_type.elem_type for o in graph.output}
    assert outputs == {"anomaly_map": onnx.TensorProto.FLOAT16, "score": onnx.TensorProto.FLOAT}
    # The whole-image model and the Gaussians of places subtract numbers of nearly the same size, so they stay FP32.
    single = ("whole_image", "places.means", "places.whitening")
    large = [t for t in graph.initializer if np.prod(t.dims) > 100 and not any(name in t.name for name in single)]
    assert large
    assert all(t.data_type == onnx.TensorProto.FLOAT16 for t in large)
    assert b"/anoseg_trainer/" not in model
    assert b".py" not in model


def test_fixed_filters_are_computed_once(exported):
    """Network, memory and whole image share the responses: each octave is filtered once, or not at all if no view needs it."""
    detector, model = exported
    filters = [m for m in detector.modules() if isinstance(m, FixedFilters)]
    convolutions = [node.input[1] for node in onnx.load_from_string(model).graph.node if node.op_type == "Conv"]
    octaves = sum(name.endswith("encoder.first") for name in convolutions)
    assert octaves in ((4, 5) if filters else (0,))


def test_tensorrt_rtx_accepts_and_builds_it(exported):
    """TensorRT's parser takes the file and its builder makes an engine for batch 1 to 16, strongly typed."""
    _, model = exported
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


@pytest.mark.parametrize("kind", KINDS)
def test_folding_norms_changes_nothing(detectors, plate, kind):
    """BatchNorm folded into convolutions gives the same map (checked before the step to half precision)."""
    detector = detectors[kind]
    frames, coords = inputs(plate, 2, np.random.default_rng(3))
    coords32 = torch.from_numpy(coords.astype(np.float32))
    with torch.no_grad():
        before, _ = detector.inspect(torch.from_numpy(frames), coords32)
        after, _ = half_precision(detector).float().inspect(torch.from_numpy(frames), coords32)
    assert (before - after).abs().mean() < 2e-3


@pytest.mark.parametrize(
    "kind",
    ["filters in the network alone", "fixed filters", "turned parts", "filters beside the network", "aligned parts"],
)
def test_pytorch_rebuilds_the_detector(detectors, plate, kind):
    """Map and score of the detector that is read back from the ONNX file; bundles from before the network saw filters too."""
    if kind in detectors:
        detector = detectors[kind]
    else:
        views = detectors["fixed filters"]
        detector = Detector(
            detectors["scratch"].network, encoder=FixedFilters(), memory=views.memory, whole_image=views.whole_image
        )
        detector.score_scale.copy_(views.score_scale)
        detector.map_gain.fill_(3.0)
    record = detector_record(detector)
    if detector.whole_image is not None and not record["whole_image"]["turned"]:
        del record["whole_image"]["turned"]  # as in earlier bundles
    if detector.places is None:
        assert record.pop("places") is None  # as in earlier bundles
    encoder = "scratch" if detector.places is None else "efficientnet-lite0"
    config = {"network": msgspec.to_builtins(NetworkConfig(encoder=encoder)), "coordinates": True}
    manifest = SimpleNamespace(training={"config": config, "detector": record})
    bundle = SimpleNamespace(path="bundle", manifest=manifest, model_onnx=onnx_from_detector(detector, SPEC))
    rebuilt = detector_from_bundle(bundle)
    del record["level_limit"], record["places_gain"]  # as in earlier bundles
    earlier = detector_from_bundle(bundle)
    assert (float(earlier.level_limit), float(earlier.places_gain)) == (NO_LEVEL, 0)
    rebuilt.score_scale.copy_(detector.score_scale)
    frames, coords = inputs(plate, 2, np.random.default_rng(5))
    given = torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32))
    with torch.no_grad():
        (maps, values), (found_maps, found_values) = (d.inspect_unscaled(*given) for d in (detector, rebuilt))
    assert (maps - found_maps).abs().max() < 0.05
    assert (maps - found_maps).abs().mean() < 0.002
    torch.testing.assert_close(found_values, values, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_that_lacks_a_weight_is_refused(detectors, kind):
    """PyTorch would go on with random numbers in its place. Weights that nothing reads may be missing."""
    detector = detectors[kind]
    config = NetworkConfig(encoder="efficientnet-lite0" if "encoder.stem" in weights_of(detector) else "scratch")
    training = {
        "config": {"network": msgspec.to_builtins(config), "coordinates": True},
        "detector": detector_record(detector),
    }
    model = onnx.load_from_string(onnx_from_detector(detector, SPEC))

    def rebuilt():
        manifest = SimpleNamespace(training=training)
        return detector_from_bundle(SimpleNamespace(path="bundle", manifest=manifest, model_onnx=model.SerializeToString()))

    rebuilt()
    weights = [tensor for tensor in model.graph.initializer if tensor.name.startswith("network.") and len(tensor.dims) == 4]
    # The number of the memory's vectors is read from this one.
    weights = [tensor for tensor in weights if not tensor.name.endswith("memory.nearest.weight")]
    lost = weights[len(weights) // 2]
    model.graph.initializer.remove(lost)
    with pytest.raises(EngineError, match=f"missing: {re.escape(lost.name.removeprefix('network.'))}"):
        rebuilt()


def weights_of(detector):
    return " ".join(dict(detector.named_parameters()))


def test_weights_beyond_half_precision_are_refused(detectors):
    """A weight that FP16 cannot hold is refused at export, not found on the line."""
    bias = detectors["scratch"].network.map_head.bias
    with torch.no_grad():
        kept = bias.clone()
        bias.fill_(1e6)
        try:
            with pytest.raises(EngineError, match=r"map_head\.bias"):
                onnx_from_detector(detectors["scratch"], SPEC)
        finally:
            bias.copy_(kept)


def test_the_default_detector_fits_a_small_machine():
    """All views together stay well below 3 GMAC at 256×256. The network that is trained has below 1 M parameters."""
    encoder = load_encoder(packaged_weights())
    network = AnoSegNetwork(NetworkConfig(), encoder=encoder)
    memory = Memory(MemoryConfig(strides=(8, 16), grid=8))
    whole = WholeImage((8, 16))
    assert count_macs(Detector(network, memory=memory, whole_image=whole), 256, 256) < 1.5e9
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) < 1e6


def test_the_operator_set_is_pinned(detectors):
    """A newer PyTorch must not export operators that the parsers of installed TensorRT 10 cannot read (9 to 20)."""
    (opset,) = onnx.load_from_string(onnx_from_detector(detectors["scratch"], SPEC)).opset_import
    assert opset.version == OPSET == 20
