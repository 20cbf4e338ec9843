"""Engines: the bundle a trained network is sealed into, the runtimes that run it, and the judgement."""
