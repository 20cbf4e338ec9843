"""Loads the certificate under which the screen is served, or makes one. Any thread.

A certificate of its own is signed by itself: browsers warn until somebody has compared its fingerprint and accepted it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from anoseg_engines.errors import ConfigError
from anosegd.view.address import network_address
from anosegd.view.private_file import write_private

VALID = timedelta(days=825)
"""The longest that browsers of Apple accept."""
RENEW = timedelta(days=30)
LONGEST_COMMON_NAME = 64
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key.

    Attributes:
        context: What the server needs.
        names: The host names that it is for, in lower case; `*.` stands for one label.
        addresses: The IP addresses that it is for.
        fingerprint: SHA-256 of the certificate, as browsers show it.
        ends: When it expires.
    """

    context: ssl.SSLContext
    names: frozenset[str]
    addresses: frozenset[str]
    fingerprint: str
    ends: datetime


def load_certificate(certificate: Path, key: Path | None = None) -> Certificate:
    """Load a certificate in PEM form, followed by those between it and its root, and its key.

    Args:
        certificate: File of the certificates.
        key: File of the key; None: it is in `certificate`, too.

    Raises:
        ConfigError: A file cannot be read, is not PEM, or is open to others; or key and certificate do not belong together.
    """
    content = _read(certificate, lambda path: path.read_bytes())
    try:
        found = x509.load_pem_x509_certificates(content)[0]
    except ValueError as error:
        raise ConfigError(
            f"{certificate}: is not a certificate ({error})", hint="give a PEM file: it begins with -----BEGIN"
        ) from error
    key = key or certificate
    mode = _read(key, lambda path: stat.S_IMODE(path.stat().st_mode))
    if mode & 0o007:
        raise ConfigError(f"{key}: everybody may use this key (mode {mode:04o})", hint=f"chmod 600 {key}")
    try:
        serialization.load_pem_private_key(_read(key, lambda path: path.read_bytes()), None)
    except TypeError:
        raise ConfigError(
            f"{key}: the key is encrypted", hint="store it without a password: openssl pkey -in KEY -out NEW"
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"{key}: is not a private key", hint="give a PEM file with a line -----BEGIN PRIVATE KEY-----"
        ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 or later
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        what = "is not the key of" if mismatch else f"cannot be used with ({error.reason})"
        raise ConfigError(f"{key}: {what} {certificate}", hint="give the key with which this certificate was made") from error
    names, addresses = _subjects(found)
    digest = found.fingerprint(hashes.SHA256()).hex(":").upper()
    return Certificate(context, names, addresses, digest, found.not_valid_after_utc)


def own_certificate(path: Path, subjects: Iterable[str], *, now: datetime | None = None) -> Certificate:
    """Load the certificate that an earlier start made, or make one, with its key in the same file (mode 0600).

    It is made again 30 days before it ends, if it is damaged, or if it lacks one of the subjects.

    Args:
        path: The file.
        subjects: Names and addresses under which browsers reach the screen. Those of this machine are added to a new one.
        now: The time, for tests.

    Raises:
        ConfigError: The file cannot be read or written.
    """
    now = now or datetime.now(timezone.utc)
    subjects = {subject.lower() for subject in subjects}
    if path.exists():
        with contextlib.suppress(ConfigError):
            found = load_certificate(path)
            if found.ends - now > RENEW and subjects <= found.names | found.addresses:
                return found
    try:
        write_private(path, _new_certificate(sorted(subjects | _subjects_of_this_machine()), now))
    except OSError as error:
        raise ConfigError(
            f"{path}: the certificate cannot be written ({error.strerror})",
            hint="give one of your own: --certificate and --certificate-key",
        ) from error
    return load_certificate(path)


def _new_certificate(subjects: list[str], now: datetime) -> bytes:
    """Return a new key and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"AnoSeg Edge {socket.gethostname()}"[:LONGEST_COMMON_NAME])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # the browser's clock may be slow
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([_general_name(subject) for subject in subjects]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _subjects_of_this_machine() -> set[str]:
    host = socket.gethostname().lower()
    found = {"localhost", "127.0.0.1", "::1"}
    for name in (host, f"{host}.local"):
        with contextlib.suppress(ValueError):
            x509.DNSName(name)
            found.add(name)
    if (address := network_address()) is not None:
        found.add(address)
    return found


def _general_name(subject: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(subject))
    except ValueError:
        return x509.DNSName(subject)


def _subjects(certificate: x509.Certificate) -> tuple[frozenset[str], frozenset[str]]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset(), frozenset()
    names = frozenset(name.lower() for name in found.get_values_for_type(x509.DNSName))
    return names, frozenset(str(address) for address in found.get_values_for_type(x509.IPAddress))


def _read(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", hint="may the user of the screen read it?") from error
