"""The daemon's side of each camera: one thread that starts, watches and restarts its capture process."""
