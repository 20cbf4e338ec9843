"""The folder of an OPC UA bridge's certificates: dates, names, and what is in the way."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from anoseg_engines.errors import ConfigError
from anosegd.bridge.opcua import certificates
from anosegd.bridge.opcua.certificates import MAX_REJECTED, Certificates

NOW = datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def folder(tmp_path: Path, key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for certificates; keys are made quickly."""
    monkeypatch.setattr(certificates.rsa, "generate_private_key", lambda **_: key)
    return tmp_path / "opcua"


def prepared(folder: Path, address: str = "127.0.0.1") -> Certificates:
    made = Certificates(folder, "eye", address)
    made.prepare()
    return made


def client(key: rsa.RSAPrivateKey, name: str = "plc", at: datetime = NOW, days: int = 365) -> bytes:
    """Return a client's certificate that is valid from a day before `at`."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return at

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "datetime", Clock)
        patch.setattr(certificates, "RELEASED", at)
        patch.setattr(certificates, "VALID", timedelta(days=days))
        return certificates._new_certificate(key, name, "10.0.0.1").public_bytes(Encoding.DER)


def events(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.message == event]


def test_an_expired_certificate_is_refused(folder: Path, key: rsa.RSAPrivateKey, caplog: pytest.LogCaptureFixture) -> None:
    """Also if it is trusted; the log warns 30 days before, and when a certificate is not valid yet."""
    made = prepared(folder)
    for name, at, days, valid in (
        ("valid", NOW, 365, True),
        ("expired", NOW - timedelta(days=400), 365, False),
        ("future", NOW + timedelta(days=5), 365, False),
        ("soon", NOW, 20, True),
    ):
        content = client(key, name, at, days)
        (made.trusted / f"{name}.der").write_bytes(content)
        made.read_trusted()
        why = made.why_refused(content)
        assert (why is None) is valid, name
        assert valid or "has expired or is not valid yet" in str(why)
    caplog.clear()
    made.check_dates()
    made.check_dates()
    warned = [str(event) for event in events(caplog, "bridge.certificate_expires")]
    assert sorted(name for name in ("valid", "expired", "future", "soon") for line in warned if f"{name}.der" in line) == [
        "expired",
        "future",
        "soon",
    ]


def test_a_machine_without_a_clock_makes_a_certificate_that_lasts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It boots in 1970: the certificate is valid today and in fifteen years, and the log says that the date is wrong."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(1970, 1, 1, 0, 0, 30, tzinfo=tz)

    with monkeypatch.context() as patch:
        patch.setattr(certificates, "datetime", Clock)
        own = prepared(folder).own
    assert own.not_valid_before_utc < NOW < NOW + timedelta(days=15 * 365) < own.not_valid_after_utc
    assert events(caplog, "bridge.certificate_expires") == []
    (folder / "own" / "certificate.der").write_bytes(_with_dates(own, NOW - timedelta(days=9), NOW - timedelta(days=2)))
    prepared(folder)
    assert len(events(caplog, "bridge.certificate_expires")) == 1


def _with_dates(own: x509.Certificate, begin: datetime, end: datetime) -> bytes:
    key = certificates.rsa.generate_private_key(public_exponent=65537, key_size=2048)
    builder = x509.CertificateBuilder(own.issuer, own.subject, own.public_key(), 1, begin, end, list(own.extensions))
    return builder.sign(key, own.signature_hash_algorithm).public_bytes(Encoding.DER)


def test_a_file_that_becomes_readable_is_read(folder: Path, key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """`chmod` changes neither its size nor its time of modification."""
    made, read = prepared(folder), Path.read_bytes

    def read_as_user(path: Path) -> bytes:  # tests may run as root, who reads all
        if not path.stat().st_mode & 0o444:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_as_user)
    file, content = made.trusted / "plc.der", client(key)
    file.write_bytes(content)
    for mode, why in ((0o200, "its certificate is not in trusted/"), (0o644, None)):
        file.chmod(mode)
        made.read_trusted()
        assert made.why_refused(content) == why


def test_files_that_are_ignored_are_named_once(folder: Path, key: rsa.RSAPrivateKey, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate with another suffix, or a link to nothing, would be looked for in vain."""
    made = prepared(folder)
    (made.trusted / "plc.cert").write_bytes(client(key))
    (made.trusted / "plc.der").symlink_to("nothing")
    for _ in range(3):
        made.read_trusted()
    assert len(events(caplog, "bridge.certificate_unreadable")) == 2


def test_made_up_certificates_stop_no_pairing(folder: Path, key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes; a client that goes on trying stays; a flood replaces one in a second."""
    made, clock = prepared(folder), [0.0]
    monkeypatch.setattr(certificates.time, "monotonic", lambda: clock[0])
    rejected = folder / "rejected"

    def refuse(name: str) -> bool:
        """Return whether the certificate is kept."""
        clock[0] += 2.0
        before = {path.name for path in rejected.iterdir()}
        made.keep_refused(client(key, name), "10.0.0.9", "its certificate is not in trusted/")
        for path in {path.name for path in rejected.iterdir()} - before:
            os.utime(rejected / path, (clock[0], clock[0]))
        return any(name in path.name for path in rejected.iterdir())

    first = client(key, "first")
    made.keep_refused(first, None, "")
    for path in rejected.iterdir():
        os.utime(path, (0, 0))
    for n in range(MAX_REJECTED - 1):
        assert refuse(f"a{n}-a")
    made.keep_refused(first, None, "")  # it tries again
    assert refuse("late-a")
    names = " ".join(path.name for path in rejected.iterdir())
    assert (len(list(rejected.iterdir())), "first" in names, "a0-a" in names) == (MAX_REJECTED, True, False)
    made.keep_refused(client(key, "flood"), None, "")
    assert not any("flood" in path.name for path in rejected.iterdir())


def test_half_of_the_own_files_is_not_replaced(folder: Path) -> None:
    """A person's key must not be lost because its certificate was moved; nor the other way round."""
    prepared(folder)
    certificate, secret = folder / "own" / "certificate.der", folder / "own" / "key.pem"
    for missing, other in ((certificate, secret), (secret, certificate)):
        kept, before = missing.read_bytes(), other.read_bytes()
        missing.unlink()
        with pytest.raises(ConfigError, match=f"{missing.name} is missing"):
            prepared(folder)
        assert other.read_bytes() == before
        missing.write_bytes(kept)
        missing.chmod(0o600)
    prepared(folder)


def test_a_certificate_without_the_address_is_noticed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Made for 127.0.0.1: fine there and for all addresses, not for another; made for all: it names no address at all."""
    for place, address, lacks in (
        ("a", "127.0.0.1", False),
        ("a", "0.0.0.0", False),
        ("a", "192.168.7.10", True),
        ("b", "0.0.0.0", True),
    ):
        caplog.clear()
        prepared(folder / place, address)
        assert (events(caplog, "bridge.certificate_lacks_address") != []) is lacks, (place, address)
