"""The capture process: reads one camera and hands its frames to the daemon through shared memory.

`child` is the process; `config` and `protocol` are what the daemon shares with it. This package imports nothing else of the
daemon, so that a camera's process starts quickly."""
