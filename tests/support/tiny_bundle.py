"""A real engine bundle that needs no training: in its ONNX network, a pixel's anomaly is the distance of its grey from 128."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anoseg_engines.bundle import Bundle, Calibration, GoldenSample, RuleCalibration
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec, Placement, Region

TINY_RULES = RuleCalibration(
    width=80,
    height=48,
    digest="0" * 64,
    n_images=99,
    rejected=1,
    guaranteed=0.047,
    false_reject_target=0.05,
    held_out=True,
    guarantee="words",
)

SIZE = 64
THRESHOLD = 0.5


def tiny_model(size: int = SIZE) -> bytes:
    """An ONNX file that keeps the bundle contract: anomaly_map = |mean(BGR) − 128| / 128 on the part; score = its maximum."""
    constants = {
        "half_range": np.float16(128),
        "on_part": np.float16(1.5),
        "channels": np.array([3], np.int64),
        "first": np.array([0], np.int64),
        "third": np.array([2], np.int64),
        "axis": np.array([1], np.int64),
        "plane": np.array([1, 2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT16),
        helper.make_node("ReduceMean", ["pixels", "channels"], ["grey"], keepdims=0),
        helper.make_node("Sub", ["grey", "half_range"], ["offset"]),
        helper.make_node("Abs", ["offset"], ["distance"]),
        helper.make_node("Div", ["distance", "half_range"], ["raw_map"]),
        helper.make_node("Abs", ["coords"], ["coords_abs"]),
        helper.make_node("ReduceMax", ["coords_abs", "axis"], ["coord_max"], keepdims=0),
        helper.make_node("Less", ["coord_max", "on_part"], ["valid"]),
        helper.make_node("Cast", ["valid"], ["valid_half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["raw_map", "valid_half"], ["anomaly_map"]),
        helper.make_node("Cast", ["anomaly_map"], ["map_single"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["map_single", "plane"], ["score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", size, size, 3]),
            helper.make_tensor_value_info("coords", TensorProto.FLOAT16, ["N", 2, size, size]),
        ],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT16, ["N", size, size]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def good_part(height: int = 48, width: int = 80) -> Image:
    """A part that passes: uniform grey."""
    return np.full((height, width, 3), 120, np.uint8)


def bad_part(height: int = 48, width: int = 80) -> Image:
    """A part that fails: a white spot at x=20…39, y=10…29."""
    image = good_part(height, width)
    image[10:30, 20:40] = 255
    return image


def golden(image: Image, spec: InputSpec) -> GoldenSample:
    """The golden sample of an image: the tiny network's map and score, computed in FP32 with NumPy."""
    height, width = image.shape[:2]
    placement = Placement.of(spec, Region(0, 0, width, height))
    frames = np.empty((len(placement.tiles), spec.height, spec.width, 3), np.uint8)
    placement.fill(image, frames)
    maps = np.abs(frames.astype(np.float32).mean(axis=-1) - 128) / 128
    score = float(maps.max())
    return GoldenSample(image, placement.stitch(maps), score, "FAIL" if score >= THRESHOLD else "PASS")


def tiny_draft(spec: InputSpec | None = None) -> BundleDraft:
    """A draft for `write_bundle`. Change a field with `dataclasses.replace`."""
    spec = spec or InputSpec(SIZE, SIZE)
    return BundleDraft(
        product="tiny",
        input=spec,
        score="largest map value",
        score_threshold=THRESHOLD,
        pixel_threshold=THRESHOLD,
        calibration=Calibration(method="by hand", n_images=1, false_reject_target=0.01, guarantee="none"),
        model_onnx=tiny_model(spec.height),
        golden=[golden(good_part(), spec), golden(bad_part(), spec)],
    )


def write_tiny_bundle(store_name: Path, spec: InputSpec | None = None) -> Bundle:
    """Write the tiny bundle as the next version under `store_name` (STORE/NAME)."""
    return write_bundle(store_name, tiny_draft(spec))
