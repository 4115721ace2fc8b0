"""Certificates of nobody's: one that no caller trusts, and one that is trusted by whoever is told of its authority."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from pathlib import Path

_USAGES = (  # in the order of its arguments
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "detectctl test")])
_SIGNS_CERTIFICATES = x509.KeyUsage(*(usage == "key_cert_sign" for usage in _USAGES))
_AUTHORITY = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "detectctl test authority")])


def untrusted_tls(folder: Path) -> ssl.SSLContext:
    """For a server; its key lies in `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _context(folder, key, _builder(_NAME, _NAME, key).sign(key, hashes.SHA256()))


def trusted_tls(folder: Path, address: str) -> tuple[ssl.SSLContext, Path]:
    """For a server at this IP address, and the file of its authority, for `SSL_CERT_FILE`; both lie in `folder`."""
    of_authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(of_authority.public_key())
    authority = (
        _builder(_AUTHORITY, _AUTHORITY, of_authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .add_extension(identifier, critical=False)
        .sign(of_authority, hashes.SHA256())
    )
    certificate = (
        _builder(_NAME, _AUTHORITY, key)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(of_authority, hashes.SHA256())
    )
    file = folder / "authority.pem"
    file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    return _context(folder, key, certificate), file


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    number = x509.random_serial_number()
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), number, now - timedelta(hours=1), now + timedelta(hours=1)
    )


def _context(folder: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> ssl.SSLContext:
    pem = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
