"""Imports OpenVINO. Every module that uses it takes it from here."""

from __future__ import annotations

import sys

# If `openvino_telemetry` is installed, importing OpenVINO reports to its makers. A production machine must not do that.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402

__all__ = ["ov"]
