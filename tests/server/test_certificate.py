"""The server's certificate, as docs/protocol.md has it."""

import socket
import ssl
import stat
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from house import House


def test_properties(house: House) -> None:
    certificate = x509.load_der_x509_certificate(house.server.certificate)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
    assert certificate.subject == certificate.issuer
    assert certificate.subject.rfc4514_string() == "CN=offbeat"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["offbeat"]
    valid = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert abs(valid - timedelta(days=20 * 365.25)) < timedelta(days=2)
    certificate.verify_directly_issued_by(certificate)


def test_device_add_prints_it_and_files_are_private(house: House) -> None:
    assert house.pendant.device.certificate == house.server.certificate
    assert house.pendant.device.port == house.server.device_port
    for name in ("certificate.pem", "offbeat.sqlite"):
        assert stat.S_IMODE((house.server.data / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(house.server.data.stat().st_mode) == 0o700


def test_the_strictest_check_passes(house: House) -> None:
    context = ssl.create_default_context(cadata=house.server.certificate)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(("127.0.0.1", house.server.device_port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="offbeat") as connection,
    ):
        assert connection.getpeercert(binary_form=True) == house.server.certificate


def test_another_name_and_old_tls_are_refused(house: House) -> None:
    def attempt(name: str, newest: ssl.TLSVersion) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=house.server.certificate)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = newest
        with (
            socket.create_connection(("127.0.0.1", house.server.device_port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=name),
        ):
            pass

    attempt("offbeat", ssl.TLSVersion.TLSv1_2)
    attempt("offbeat", ssl.TLSVersion.TLSv1_3)
    with pytest.raises(ssl.SSLCertVerificationError):
        attempt("127.0.0.1", ssl.TLSVersion.TLSv1_3)
