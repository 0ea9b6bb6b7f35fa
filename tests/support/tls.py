"""Certificates, good and bad, and a TLS server that tells what clients entrusted to it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.listening import listening

BAD = ("another name", "expired", "self-signed", "another authority")
HOST = x509.IPAddress(ip_address("127.0.0.1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Who signs; `path` is what clients are told to trust."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    path: Path


def authority(folder: Path, name: str = "ours") -> Authority:
    """A new certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(key, _name(name), None, names=[], days=(-1, 30), is_authority=True)
    path = folder / f"{name}.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(key=key, certificate=certificate, path=path)


def server_context(folder: Path, trusted: Authority, kind: str = "good") -> ssl.SSLContext:
    """A server's context with a good certificate for 127.0.0.1, or one of the BAD ones."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer: Authority | None = trusted
    if kind == "self-signed":
        issuer = None
    elif kind == "another authority":
        issuer = authority(folder, "theirs")
    names = [x509.DNSName("elsewhere.example")] if kind == "another name" else [HOST]
    days = (-30, -1) if kind == "expired" else (-1, 30)
    certificate = _certificate(key, _name("server"), issuer, names=names, days=days)
    path = folder / f"server-{kind}.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@dataclass(slots=True)
class TlsServer:
    """What arrived inside of TLS, from whichever client; `port` on 127.0.0.1."""

    port: int = 0
    received: bytes = b""
    connections: int = 0
    asked_through: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def tls_server(context: ssl.SSLContext, *, answer: bytes = b"", before: str = "") -> AsyncIterator[TlsServer]:
    """A server that answers the first bytes with `answer`. `before` TLS a client may have to say something:

    "postgresql": its request for TLS; "proxy": CONNECT.
    """
    found = TlsServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        try:
            if before == "postgresql":
                await reader.readexactly(8)
                writer.write(b"S")
            elif before == "proxy":
                found.asked_through.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await writer.start_tls(context)
            found.received += await reader.read(65536)
            writer.write(answer)
            await writer.drain()
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with listening(serve) as found.port:
        yield found


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    issuer: Authority | None,
    *,
    names: list[x509.GeneralName],
    days: tuple[int, int],
    is_authority: bool = False,
) -> x509.Certificate:
    now = datetime.now(UTC)
    signer = key if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())
