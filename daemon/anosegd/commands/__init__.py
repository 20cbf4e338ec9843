"""Runs the commands of `anosegd`. Each has a module with its name, and `main(options)` runs it.

`send_request` has the commands that only send one request to the station.
"""
