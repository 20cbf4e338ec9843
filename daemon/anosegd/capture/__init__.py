"""Reads one camera in a process of its own, and hands its frames to the daemon through shared memory.

`child` is the process, with one thread. The daemon uses `config`, `protocol` and `shared_slots` too. This file imports nothing,
and the package imports nothing else of the daemon, so that the process starts quickly.
"""
