"""The capture process: reads one camera and hands its frames to the daemon through shared memory.

`child` is the process. The daemon shares `config`, `protocol` and `shared_slots` with it. Nothing is imported here, and the package
imports nothing else of the daemon: a camera's process has to start quickly.
"""
