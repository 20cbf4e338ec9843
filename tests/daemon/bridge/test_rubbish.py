"""The rigs of malformed frames, with fewer frames."""

import pytest
from stress.modbus_rubbish import flood


def test_malformed_frames_change_nothing_for_others() -> None:
    """Beside 100 clients and 20 slow ones, a good master is served, memory stays, and the log stays short."""
    assert flood(3000) == []


def test_malformed_opcua_messages_change_nothing_for_others() -> None:
    """The same for OPC UA, where most messages come in a session."""
    pytest.importorskip("asyncua")
    from stress.opcua_rubbish import flood as opcua_flood

    assert opcua_flood(1500) == []


def test_an_array_of_nothing_takes_no_memory() -> None:
    """Six bytes that declare two thousand million elements without a byte each; asyncua would make a list of them."""
    pytest.importorskip("asyncua")
    from asyncua.common.utils import Buffer
    from asyncua.ua import UaError
    from asyncua.ua.ua_binary import variant_from_binary

    import anosegd.bridge.opcua.sessions  # noqa: F401

    with pytest.raises(UaError, match="an array of the type Null"):
        variant_from_binary(Buffer(b"\x80\xff\xff\xff\x7f"))
    with pytest.raises(UaError, match="MAX_RESHAPE_ELEMENTS"):  # a matrix of 20,000 by 1, of one element
        variant_from_binary(Buffer(b"\xc3\x01\0\0\0\0\x02\0\0\0\x20\x4e\0\0\x01\0\0\0"))
