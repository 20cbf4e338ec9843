"""The control socket: requests from people, PLCs and the command line."""
