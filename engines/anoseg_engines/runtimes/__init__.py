"""Runs networks: `openvino` on CPUs, `tensorrt` on NVIDIA GPUs. `select` chooses the runtime for a bundle."""
