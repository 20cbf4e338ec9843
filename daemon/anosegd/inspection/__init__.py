"""The inspector: one thread that owns the engine and judges parts.

`queue`: frames that wait. `inspector`: the thread. `placement_cache`: what it computes once for its engine. `selftest`: golden images, run
again. `swap`: another engine takes over. `rule_calibration`: the guarantee of region rules. Nothing is imported here: commands
use `rule_calibration`, and cameras use `queue`, without loading the engine.
"""
