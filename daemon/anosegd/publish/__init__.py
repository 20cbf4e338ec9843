"""Turns outcomes of parts into verdicts, commits the verdicts to the journal and sends them, on the publisher's thread.

`publisher` is the thread, and `outlet` its socket. `open_parts` has the parts that have no verdict yet, `deadline` says which
of them are late, and `commits` has the verdicts that wait for the journal. `verdict` builds verdicts. `masks` is the thread
that encodes anomaly maps. `counts` counts per camera.
"""

from anosegd.publish.outlet import LINGER_MS
from anosegd.publish.publisher import Identity, Publisher

__all__ = ["LINGER_MS", "Identity", "Publisher"]
