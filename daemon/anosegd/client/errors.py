"""Defines the errors that a client raises. Any thread."""

from __future__ import annotations


class ClientError(Exception):
    """The station does not answer, or refuses a request."""


class RefusedError(ClientError):
    """The station refuses a request.

    Attributes:
        code: The reason for programs, such as `no_journal`.
        message: The reason for people.
    """

    def __init__(self, op: str, code: str, message: str) -> None:
        super().__init__(f"{op}: {code}: {message}")
        self.code = code
        self.message = message


class NoAnswerError(ClientError):
    """The station did not answer in time."""


class RequestError(ClientError):
    """The request cannot be sent."""

    def __init__(self, op: str, why: str) -> None:
        super().__init__(f"{op}: the request was not sent: {why}")


class KeyFileError(ClientError):
    """The file of the client's key cannot be used."""
