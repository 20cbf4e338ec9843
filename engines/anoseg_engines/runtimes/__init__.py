"""The runtimes: `openvino` for CPUs, `tensorrt` for NVIDIA GPUs. `select` says which of them to load for a bundle."""
