"""The daemon: grabs frames, runs the engine, publishes verdicts and masks over ZeroMQ."""
