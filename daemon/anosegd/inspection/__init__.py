"""Judges parts on one thread, the inspector, which owns the engine.

`inspector` is the thread. It takes frames from `queue` and keeps in `placement_cache` what it computes once for an engine.
`selftest` runs the golden images between parts. `swap` replaces the engine. `rule_calibration` words the false-reject bound of
region rules. This file imports nothing: commands use `rule_calibration`, and cameras use `queue`, without loading the engine.
"""
