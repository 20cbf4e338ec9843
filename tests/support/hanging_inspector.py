"""`anosegd` whose engine hangs: once the service's runtime folder has a file `hang`, the engine's next call never returns.

Only the inspector's thread hangs, as it would in a faulty driver. Everything else is the installed daemon.
"""

import os
import signal
import time
from pathlib import Path

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})  # before a library starts a thread

    from anoseg_engines.engine import Engine
    from anosegd.cli import main

    switch = Path(os.environ["RUNTIME_DIRECTORY"]) / "hang"
    prepare = Engine.prepare

    def prepare_or_hang(*arguments, **more):
        while switch.exists():
            time.sleep(3600)
        return prepare(*arguments, **more)

    Engine.prepare = prepare_or_hang
    main()
