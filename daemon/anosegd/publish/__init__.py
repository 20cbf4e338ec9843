"""The publisher: one thread that turns outcomes of parts into verdicts, commits them to the journal and sends them.

`publisher` is the thread and owns the socket. `open_parts`: parts that are owed a verdict. `commits`: verdicts that wait for
the journal. `verdict`: building them. `masks`: the thread that encodes anomaly maps. `counts`: counts per camera.
"""

from anosegd.publish.publisher import LINGER_MS, Identity, Publisher

__all__ = ["LINGER_MS", "Identity", "Publisher"]
