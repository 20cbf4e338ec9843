"""The operator's screen: a web server that is an ordinary client of one station. It shares no process with the inspection.

`server.serve` runs it. It needs the extra `view`; `address` does not.
"""
