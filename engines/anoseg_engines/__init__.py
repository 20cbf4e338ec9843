"""Engines: bundles of trained networks, the runtimes that run them, and the judgement of parts."""
