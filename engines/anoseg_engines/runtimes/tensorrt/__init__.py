"""Runs networks with TensorRT: `build` makes plans in a process of its own (`build_child`), `runtime` runs them on a GPU."""
