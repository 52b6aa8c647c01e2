"""The server's own key and certificate, against which every device verifies it."""

import hashlib
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from offbeat.store import Store, StoreError, devices, sync_folder

NAME = "offbeat"
VALID = timedelta(days=20 * 365 + 5)


def _write(path: Path, content: bytes) -> None:
    """Writes a file of mode 0600 that is either there whole or not at all, also after a power cut."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    os.replace(part, path)
    sync_folder(path.parent)


class Certificate:
    """A P-256 key and a self-signed certificate in one PEM file, `certificate.pem` of the data folder.

    One file, so that key and certificate can never be of two different makings."""

    def __init__(self, store: Store) -> None:
        """Reads the file, or makes it if it is missing. Raises StoreError."""
        self.path = store.settings.data / "certificate.pem"
        with store.write():  # two commands at the same time must not make two certificates
            if not self.path.exists():
                _write(self.path, _make())
        try:
            certificate = x509.load_pem_x509_certificate(self.path.read_bytes())
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.path} cannot be read ({error}). Put it back from a backup; or remove it, and then set up "
                "every device again."
            ) from error
        self.der = certificate.public_bytes(serialization.Encoding.DER)

    def server_context(self) -> ssl.SSLContext:
        """A context for the device port: TLS 1.2 or later."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.path)
        return context


def only_at_server(store: Store) -> None:
    """Raises StoreError where the devices' server is elsewhere: a certificate that is made here would be of no use."""
    if store.settings.database_url and not (store.settings.data / "certificate.pem").exists():
        raise StoreError(
            f"OFFBEAT_DATA={str(store.settings.data)!r} has no certificate.pem, by which the devices know the server. "
            "Run this where `offbeat serve` runs, with its OFFBEAT_DATA, and after its first start."
        )


def _next_path(store: Store) -> Path:
    return store.settings.data / "certificate-next.pem"


def make_next(store: Store) -> None:
    """Makes the key and certificate that the server will change to, unless they are there. Raises StoreError."""
    only_at_server(store)
    path = _next_path(store)
    with store.write():
        if not path.exists():
            _write(path, _make())


def next_der(store: Store) -> bytes | None:
    """The certificate that the server will change to, if there is one. Raises StoreError when it cannot be read."""
    path = _next_path(store)
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    except ValueError as error:
        raise StoreError(f"{path} cannot be read ({error}). Remove it, and make another.") from error


def not_told(store: Store) -> list[str]:
    """The devices that have not reported that they keep the next certificate: they would be locked out."""
    der = next_der(store)
    digest = None if der is None else hashlib.sha256(der).hexdigest()
    with store.read() as connection:
        chosen = sa.select(devices.c.id, devices.c.report).where(devices.c.revoked_ms.is_(None)).order_by(devices.c.id)
        rows = connection.execute(chosen).all()
    return [row.id for row in rows if (row.report or {}).get("next_certificate") != digest]


def switch(store: Store) -> None:
    """The next certificate takes the place of the present one; a server that runs serves it after its restart."""
    path = _next_path(store)
    os.replace(path, store.settings.data / "certificate.pem")
    sync_folder(path.parent)


def _make() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    # A board without a clock of its own may be a little behind: valid from yesterday on.
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        # A device takes this very certificate as its only root, so it must be allowed to sign.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)
