"""Passwords do not get into messages, whatever characters they have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anoseg_engines.passwords import address_of, has_login, mask_passwords, passwords_in

ADDRESSES = {
    "rtsp://admin:geheim@10.0.0.9/1": "rtsp://10.0.0.9/1",
    "http://user:ge@heim#m/1?%41@127.0.0.1:6705/wrong": "http://127.0.0.1:6705/wrong",
    "rtsp://10.0.0.9:554/1": "rtsp://10.0.0.9:554/1",
    "rtsp://cam/user=admin_password=geheim_channel=1.sdp": "rtsp://cam/user=admin_password=***",
    "http://cam/video?user=a&pwd=geheim": "http://cam/video?***",
    "rtsp://u:ge heim'\"@cam/p": "rtsp://cam/p",
    "admin:geheim@10.0.0.9/1": "10.0.0.9/1",
    "rtsp://u:ge heim@": "rtsp://",
    "rtsp://geheim@[::1]:554/x": "rtsp://[::1]:554/x",
}


@pytest.mark.parametrize(("url", "shown"), ADDRESSES.items())
def test_addresses_are_shown_without_passwords(url: str, shown: str) -> None:
    """Host and path stay, so that a person finds the camera."""
    assert address_of(url) == shown


@pytest.mark.parametrize("url", ADDRESSES)
def test_messages_that_quote_an_address(url: str) -> None:
    """With or without knowing the address beforehand."""
    for text in (f"cannot open '{url}': no", f"{url}, retrying"):
        assert "heim" not in mask_passwords(text, url)
        assert "heim" not in mask_passwords(text)


@given(st.text(st.characters(exclude_characters="*\n\r", exclude_categories=["Cs", "Cc"]), min_size=3))
def test_no_password_survives(password: str) -> None:
    """Neither in the address nor in a text that quotes the address or the password alone."""
    url = f"rtsp://admin:{password}@10.0.0.9/1"
    assert address_of(url) == "rtsp://10.0.0.9/1"
    assert mask_passwords(f"Failed: {url}", url) == "Failed: rtsp://10.0.0.9/1"
    assert mask_passwords(f"Failed: {url}") == "Failed: rtsp://***@10.0.0.9/1"
    assert password in passwords_in(url)
    assert password not in mask_passwords(f"login {password} refused", url) or password in "login *** refused"


@pytest.mark.parametrize(
    "text",
    [
        "/etc/anoseg/press@4.yaml, line 3: cameras.a.password: unknown key",
        "ipc://@abstract: in use",
        "ipc:///run/anoseg@line/pub is in use",
        "tcp://127.0.0.1:5570 is in use",
        "it refuses the user name or the password (401 Unauthorized)",
        "12:00:00 restarted by anoseg@line",
        "http://10.0.0.9/1 cannot be opened: write @ as %40",
    ],
)
def test_ordinary_messages_stay(text: str) -> None:
    """Nothing is masked that is no password."""
    assert mask_passwords(text) == text


@pytest.mark.parametrize("text", ["a" * 1_000_000, "a:" * 500_000, "a@" * 500_000, "@ " + "a" * 1_000_000])
def test_long_texts_take_no_longer_for_each_character(text: str) -> None:
    """A megabyte in a damaged manifest, or in a request, is quoted at once. It took hours when each position was tried."""
    assert mask_passwords(text) == text
    assert mask_passwords(text, "rtsp://user:geheim@10.0.0.9/1") == text
    assert not has_login(text)
    assert passwords_in(text) == []
