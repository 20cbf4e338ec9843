"""Keeps the bridge's own certificate, and knows which clients are trusted. Runs on the event loop's thread.

All of it is in one folder: `own` has the bridge's certificate and key, `trusted` the certificates of clients that may connect,
and `rejected` those of clients that tried. A person trusts a client by moving its file. The folder is read again once a second.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import stat
import time
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from anoseg_engines.errors import ConfigError
from anosegd import logs

VALID = timedelta(days=7300)
"""Clients are given this certificate by hand: it should outlive the line."""
KEY_BITS = 2048
LONGEST_COMMON_NAME = 64
SUFFIXES = {".der", ".cer", ".crt", ".pem"}
RELEASED = datetime(2026, 11, 1, tzinfo=timezone.utc)
"""A clock that shows an earlier time is wrong."""
WARN_BEFORE = timedelta(days=30)
DAY_S = 86_400.0
LARGEST_FILE = 16 * 1024
MAX_REJECTED = 20
"""Files in `rejected`, at most, because anybody may offer certificates. A new one replaces the oldest."""
NOT_TRUSTED = "its certificate is not in trusted/"
TRUST = "to let it in, compare the fingerprint of its certificate and move the file to trusted/"
NEW_ONES = "delete both files: the bridge then makes new ones, and clients must trust the new certificate"
REPLACE_S = 1.0
"""The shortest time between two replacements."""


class Certificates:
    """The certificates of one bridge.

    Attributes:
        own, key: The bridge's certificate and its key, after `prepare`.
        uri: The name by which it is known to clients, from the certificate.
    """

    own: x509.Certificate
    key: rsa.RSAPrivateKey
    uri: str

    def __init__(self, folder: Path, camera: str, address: str) -> None:
        self._folder, self._camera, self._address = folder, camera, address
        self._trusted: dict[bytes, Path] = {}  # files by certificate
        self._seen: tuple[tuple[str, int, int, int], ...] | None = None  # the state of the folder `trusted` when it was read
        self._ignored: dict[Path, str] = {}  # other files in it, and why
        self._replaced_at = self._dates_at = float("-inf")
        self._unreadable = logs.Throttle("bridge.certificate_unreadable", period_s=60.0)
        self._refused = logs.Throttle("bridge.certificate_refused")

    @property
    def own_path(self) -> Path:
        """The file of the bridge's certificate, which clients need."""
        return self._folder / "own" / "certificate.der"

    @property
    def trusted(self) -> Path:
        """The folder of certificates of clients that may connect."""
        return self._folder / "trusted"

    def prepare(self) -> None:
        """Make what is missing, and load the certificate and the trusted clients.

        Raises:
            ConfigError: A file cannot be read or written, or is no certificate, or its key is open to others.
        """
        try:
            for name, mode in (("own", 0o700), ("trusted", 0o755), ("rejected", 0o755)):
                (self._folder / name).mkdir(mode=mode, parents=True, exist_ok=True)
            key = self.own_path.with_name("key.pem")
            if self.own_path.exists() is not key.exists():
                there, missing = (self.own_path, key) if self.own_path.exists() else (key, self.own_path)
                raise ConfigError(
                    f"{missing} is missing, but {there.name} is there",
                    hint=f"put it back. Or delete {there}: the bridge then makes both new, and clients must trust it again",
                )
            if not self.own_path.exists():
                self._make_own()
            self._load_own()
        except OSError as error:
            raise ConfigError(
                f"opcua.folder: {error.filename or self._folder}: cannot be used ({error.strerror})",
                hint="the bridge keeps its own certificate and those of its clients there: set a folder in which it may write",
            ) from error
        self._check_names()
        self.read_trusted()
        self.check_dates()

    def read_trusted(self) -> None:
        """Read the trusted certificates again if a file was added, removed or changed."""
        files, seen, ignored = _files(self.trusted)
        for path in ignored.keys() - self._ignored.keys():
            logs.warning("bridge.certificate_unreadable", file=path, error=ignored[path])
        self._ignored = ignored
        if seen == self._seen:
            return
        self._seen = seen
        trusted = {}
        for path in files:
            try:
                trusted[_load(path.read_bytes()).public_bytes(Encoding.DER)] = path
            except Exception as error:  # noqa: BLE001 - a file that somebody put there must not end the bridge
                self._unreadable.warning(file=path, error=str(error) or type(error).__name__)
        if trusted.keys() != self._trusted.keys():
            names = ", ".join(sorted(path.name for path in trusted.values()))
            logs.info("bridge.clients_trusted", folder=self.trusted, clients=names or "none")
            self._dates_at = float("-inf")
        self._trusted = trusted

    def check_dates(self) -> None:
        """Once a day, and after each change, warn of certificates that are not valid now, or not for long."""
        if time.monotonic() < self._dates_at:
            return
        self._dates_at = time.monotonic() + DAY_S
        now = datetime.now(timezone.utc)
        certificates = [(self.own_path, self.own)]
        certificates += [(path, x509.load_der_x509_certificate(content)) for content, path in self._trusted.items()]
        for path, certificate in certificates:
            begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if not begin <= now < end - WARN_BEFORE:
                valid = f"{begin:%Y-%m-%d} to {end:%Y-%m-%d}"
                hint = "connections need a valid certificate: replace it in time, or correct the clock of this machine"
                logs.warning("bridge.certificate_expires", file=path, valid=valid, today=f"{now:%Y-%m-%d}", hint=hint)

    def why_refused(self, sent: bytes | None) -> str | None:
        """Say why a client with this certificate may not connect; None if it may.

        Args:
            sent: The certificate in DER form, as the client has sent it; those of its authorities may follow.
        """
        try:
            certificate = _first(sent or b"")
        except ValueError:
            return "its certificate cannot be read"
        key, now = certificate.public_key(), datetime.now(timezone.utc)
        if not isinstance(key, rsa.RSAPublicKey) or not 2048 <= key.key_size <= 4096:
            return "its certificate has no RSA key of 2048 to 4096 bits"
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return "its certificate has expired or is not valid yet, or the clock of this machine is wrong"
        return None if certificate.public_bytes(Encoding.DER) in self._trusted else NOT_TRUSTED

    def is_trusted(self, certificate: bytes) -> bool:
        """Whether a client that was let in may stay."""
        return certificate in self._trusted

    def keep_refused(self, sent: bytes | None, client: str | None, why: str) -> None:
        """Store the certificate of a client that was refused, so that a person can trust it."""
        kept = None
        with contextlib.suppress(ValueError, OSError):
            certificate = _first(sent or b"")
            print_ = certificate.fingerprint(hashes.SHA256()).hex()[:16]
            kept = self._folder / "rejected" / f"{_name_of(certificate)}-{print_}.der"
            if kept.exists():
                kept.touch()  # its client is still trying
            elif self._make_room():
                kept.write_bytes(certificate.public_bytes(Encoding.DER))
        exists = kept is not None and kept.exists()
        hint = TRUST if exists and why == NOT_TRUSTED else None
        self._refused.warning(client=client, why=why, file=kept if exists else None, hint=hint)

    def _make_room(self) -> bool:
        """Delete the oldest file in `rejected` if it is full; return whether there is room. A flood must not wear the disk."""
        files = sorted((self._folder / "rejected").iterdir(), key=lambda path: path.lstat().st_mtime_ns)
        if len(files) < MAX_REJECTED:
            return True
        if time.monotonic() - self._replaced_at < REPLACE_S:
            return False
        self._replaced_at = time.monotonic()
        files[0].unlink()
        return True

    def _check_names(self) -> None:
        """Warn if the certificate lacks the address under which clients connect: most clients compare it."""
        names = self.own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses, address = names.get_values_for_type(x509.IPAddress), ipaddress.ip_address(self._address)
        if not addresses if address.is_unspecified else address not in addresses:
            named = [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]
            logs.warning(
                "bridge.certificate_lacks_address",
                file=self.own_path,
                listen=self._address,
                names=", ".join(named) or "none",
                hint="clients may refuse it: set opcua.listen to the address they use, delete both files in own/, and restart",
            )

    def _make_own(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        certificate = _new_certificate(key, self._camera, self._address)
        private = key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        _write(self.own_path.with_name("key.pem"), private, 0o600)
        _write(self.own_path, certificate.public_bytes(Encoding.DER), 0o644)
        print_ = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
        logs.info("bridge.certificate_made", file=self.own_path, sha256=print_)

    def _load_own(self) -> None:
        path = self.own_path.with_name("key.pem")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"{path}: other users can read or change this key", hint=f"chmod 600 {path}")
        try:
            self.own = _load(self.own_path.read_bytes())
            key = serialization.load_pem_private_key(path.read_bytes(), None)
            self.uri = _uri_of(self.own)
        except (ValueError, TypeError, x509.ExtensionNotFound) as error:
            raise ConfigError(
                f"{self.own_path.parent}: certificate or key cannot be used ({error})",
                hint=f"the certificate must name the bridge's URI as alternative name. Or {NEW_ONES}",
            ) from error
        if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != self.own.public_key():
            raise ConfigError(f"{path}: is not the RSA key that belongs to {self.own_path}", hint=NEW_ONES)
        self.key = key


def _files(folder: Path) -> tuple[list[Path], tuple[tuple[str, int, int, int], ...], dict[Path, str]]:
    """Look for certificates in a folder. A folder that is gone is empty.

    Returns:
        The files of certificates; values that change if a file or its permissions change; and the other files, with the reasons
        why they are not used.
    """
    found, seen, ignored = [], [], {}
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            try:
                state = path.stat()
            except OSError as error:
                ignored[path] = error.strerror or "cannot be read"
                continue
            if path.suffix.lower() not in SUFFIXES:
                ignored[path] = f"its name ends in none of {', '.join(sorted(SUFFIXES))}"
            elif not stat.S_ISREG(state.st_mode) or state.st_size > LARGEST_FILE:
                ignored[path] = f"it is not a file, or has more than {LARGEST_FILE} bytes"
            else:
                found.append(path)
                seen.append((path.name, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return found, tuple(seen), ignored


def _load(content: bytes) -> x509.Certificate:
    """Read a certificate in PEM or DER form.

    Raises:
        ValueError: It is no certificate.
    """
    if content.lstrip().startswith(b"-----BEGIN"):
        return x509.load_pem_x509_certificate(content)
    return x509.load_der_x509_certificate(content)


def _first(sent: bytes) -> x509.Certificate:
    """Read the first of several certificates in DER form.

    Raises:
        ValueError: It is no certificate.
    """
    if len(sent) < 4 or sent[:2] != b"\x30\x82":
        raise ValueError("not a certificate")
    return x509.load_der_x509_certificate(sent[: 4 + int.from_bytes(sent[2:4], "big")])


def _name_of(certificate: x509.Certificate) -> str:
    """Return a name for a file: what the certificate says, without characters that a path must not have."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return re.sub(r"[^A-Za-z0-9]+", "-", str(names[0].value) if names else "")[:40].strip("-") or "client"


def _uri_of(certificate: x509.Certificate) -> str:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if not uris:
        raise ValueError("the certificate has no URI")
    return str(uris[0])


def _new_certificate(key: rsa.RSAPrivateKey, camera: str, address: str) -> x509.Certificate:
    """Return a self-signed certificate as OPC UA requires it (OPC 10000-6, 6.2.2)."""
    host, now = socket.gethostname(), datetime.now(timezone.utc)
    common_name = f"AnoSeg Edge bridge {camera} on {host}"[:LONGEST_COMMON_NAME]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (
        (x509.SubjectAlternativeName(_names(f"urn:{host}:anoseg:bridge:{camera}", host, address)), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (identifier, False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
        (
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=True,
                key_encipherment=True,
                data_encipherment=True,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            True,
        ),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, RELEASED) - timedelta(days=1))  # the client's clock may be slow
        .not_valid_after(max(now, RELEASED) + VALID)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256())


def _names(uri: str, host: str, address: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri), x509.DNSName(host), x509.DNSName("localhost")]
    ip = ipaddress.ip_address(address)
    return names if ip.is_unspecified else [*names, x509.IPAddress(ip)]


def _write(path: Path, content: bytes, mode: int) -> None:
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
