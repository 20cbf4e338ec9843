"""The TensorRT runtime: building plans, and running them on a GPU."""
