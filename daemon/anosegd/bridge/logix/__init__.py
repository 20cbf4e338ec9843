"""The kind `logix`: a client of a Rockwell controller, in which it reads and writes a tag. `tag_map.py` is the map,
`memory.py` the client.
"""

from anosegd.bridge.logix.tag_map import TagMap

__all__ = ["TagMap"]
