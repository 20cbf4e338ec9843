"""Keeps parts as evidence: the camera's picture, the anomaly map and the verdict, in one file a part.

`keeper` is the thread that stores them, `folder` the files on the disk with their limits, `names` what a file's name says,
`part_file` what is in it, `place` the checks before the start. Other programs find and read parts with `reader`.
"""

from anosegd.evidence.config import EvidenceConfig
from anosegd.evidence.keeper import EvidenceKeeper, Offered
from anosegd.evidence.names import PartName
from anosegd.evidence.part_file import KeptPart
from anosegd.evidence.place import check_place, place_warning
from anosegd.evidence.reader import EvidenceReader

__all__ = [
    "EvidenceConfig",
    "EvidenceKeeper",
    "EvidenceReader",
    "KeptPart",
    "Offered",
    "PartName",
    "check_place",
    "place_warning",
]
