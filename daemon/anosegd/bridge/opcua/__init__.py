"""The kind `opcua`: an OPC UA server according to OPC 40100-1 (Machine Vision).

`variables.py` has the tags as variables, `machine_vision.py` the objects of the standard, `server.py` joins them.
`certificates.py` decides who may connect; `connection.py`, `sessions.py`, `event_filters.py` and `decoding.py` limit what a
client may do.
"""
