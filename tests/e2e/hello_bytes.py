"""ClientHellos made by hand, whole or cut into TLS records: what real clients rarely send and a balancer must survive."""
import os
import struct

SERVER_NAME, ALPN, TICKET, PSK, SUPPORTED_VERSIONS, PSK_MODES, EARLY_DATA = 0, 16, 35, 41, 43, 45, 42
GREASE = 0x0A0A


def extension(kind, body):
    return struct.pack("!HH", kind, len(body)) + body


def server_name(name):
    name = name if isinstance(name, bytes) else name.encode()
    entry = b"\0" + struct.pack("!H", len(name)) + name
    return extension(SERVER_NAME, struct.pack("!H", len(entry)) + entry)


def alpn(protocols):
    names = b"".join(bytes([len(p)]) + p.encode() for p in protocols)
    return extension(ALPN, struct.pack("!H", len(names)) + names)


def pre_shared_key(identities):
    listed = b"".join(struct.pack("!H", len(i)) + i + b"\0\0\0\0" for i in identities)
    binders = b"".join(b"\x20" + os.urandom(32) for _ in identities)
    return extension(PSK, struct.pack("!H", len(listed)) + listed + struct.pack("!H", len(binders)) + binders)


def client_hello(sni="www.example.com", *, session_id=b"", tls13=True, ticket=None, psk=(), protocols=(), extra=b"", early_data=False,
                 pad_to=0):
    """The handshake message. `extra` is extensions as they are on the wire; `pad_to` a size of the whole message."""
    extensions = extension(GREASE, b"")
    if sni is not None:
        extensions += server_name(sni)
    if protocols:
        extensions += alpn(protocols)
    if ticket is not None:
        extensions += extension(TICKET, ticket)
    if tls13:
        extensions += extension(SUPPORTED_VERSIONS, b"\x06\x0a\x0a\x03\x04\x03\x03")
        extensions += extension(PSK_MODES, b"\x01\x01")
    extensions += extra
    if early_data:
        extensions += extension(EARLY_DATA, b"")
    last = pre_shared_key(psk) if psk else b""
    fixed = struct.pack("!H", 0x0303) + os.urandom(32) + bytes([len(session_id)]) + session_id
    fixed += struct.pack("!H", 6) + b"\x0a\x0a\x13\x01\xc0\x2f" + b"\x01\x00"
    missing = pad_to - (4 + len(fixed) + 2 + len(extensions) + len(last))
    if missing >= 4:
        extensions += extension(21, bytes(missing - 4))
    extensions += last
    body = fixed + struct.pack("!H", len(extensions)) + extensions
    return b"\x01" + struct.pack("!I", len(body))[1:] + body


def record(payload, kind=22, version=0x0301):
    return struct.pack("!BHH", kind, version, len(payload)) + payload


def in_records(message, cuts=()):
    """The message in records that end at each of `cuts` and at its end; a cut at 0, or twice the same, is an empty record."""
    out, start = b"", 0
    for end in [*cuts, len(message)]:
        piece = message[start:end]
        out += b"".join(record(piece[i:i + 16384]) for i in range(0, max(1, len(piece)), 16384))
        start = end
    return out
