"""Defines the errors that a user can meet. Each says what is wrong, where, and what to do.

`main` prints the error and exits with its code. An error contains no password of an address, whatever it quotes.
"""

from __future__ import annotations

from anoseg_engines.passwords import mask_passwords


class AnosegError(Exception):
    """A condition that the user sees as one message, without a traceback.

    Attributes:
        what: What is wrong, and where.
        hint: What to do.
        exit_code: Read by the service manager. 1: a restart may help. 2: the configuration or an input is wrong. 3: the
            engine is refused. systemd does not restart the program after 2 or 3.
    """

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        self.what = mask_passwords(what)
        self.hint = mask_passwords(hint)
        super().__init__(self.what)

    def __str__(self) -> str:
        return f"{self.what}\n  {self.hint}" if self.hint else self.what


class ConfigError(AnosegError):
    """A configuration file or command line that cannot be used."""

    exit_code = 2


class DataError(AnosegError):
    """Images, masks or folders that cannot be used."""

    exit_code = 2


class EngineError(AnosegError):
    """A bundle, network or runtime that is refused."""

    exit_code = 3


class RuntimeFailedError(EngineError):
    """A runtime that failed while it ran a network that it had loaded, such as a GPU whose context is lost."""

    exit_code = 1


class GpuMemoryError(RuntimeFailedError):
    """A GPU without enough free memory. Other programs on the GPU may have taken it."""


class GpuDriverError(EngineError):
    """A GPU driver that reports an error instead of a GPU. Soon after the machine has started, it may not be ready yet."""

    exit_code = 1


class EngineLostError(AnosegError):
    """An engine that worked, and now fails on part after part. A restart of the program may help."""


class SelfTestError(EngineError):
    """An engine whose results on the golden images differ from the recorded results."""


class PrecisionError(EngineError):
    """A runtime that does not compute in the precision that was asked for."""


class CameraError(AnosegError):
    """A camera or other source of frames that cannot be opened or read."""


class StreamRefusedError(CameraError):
    """A camera that answers, but does not give this stream. To ask it again soon would hardly help."""


class LoginRefusedError(CameraError):
    """A camera that refuses the user name or the password. Repeated attempts can lock everybody out of the camera."""


class EndedEarlyError(CameraError):
    """A video file that ended before all of its frames were read. To read it again would end in the same way."""

    exit_code = 2


class PublishError(AnosegError):
    """A socket that cannot be bound or used."""
