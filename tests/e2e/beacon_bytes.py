"""The beacon protocol as an implementer in another language would write it, from the grammar in core/beacon/beacon.cc.

PyAgent announces any node with any prefixes and tokens; with it a case can say things that no honest agent says.
"""
import hashlib
import hmac
import ipaddress
import os
import select
import socket
import struct
import threading
import time

from harness import split_address

ALIVE, DYING, STILL_HERE, TOKENS, CHALLENGE, SYNC = range(1, 7)
ENVELOPE = struct.Struct("!5sBBBQQQQ4s32s")


def seal(key, node, kind, body, *, epoch, nonce, sequence, direction=1, sent_micros=None):
    """One datagram, under `key` (32 bytes)."""
    key_id = hmac.digest(key, b"hudsucker beacon key id", "sha256")[:4]
    sent = int(time.time() * 1e6) if sent_micros is None else sent_micros
    head = ENVELOPE.pack(b"HUDB\x01", direction, kind, 0, epoch, nonce, sequence, sent, key_id, node.encode())
    whole = head + body.ljust(16, b"\0")
    return whole + hmac.digest(key, whole, hashlib.sha256)


def open_datagram(key, datagram):
    """(type, nonce, body) of an answer whose MAC is right, else None."""
    if len(datagram) < 124 or not hmac.compare_digest(hmac.digest(key, datagram[:-32], "sha256"), datagram[-32:]):
        return None
    fields = ENVELOPE.unpack(datagram[:76])
    return fields[2], fields[5], datagram[76:-32]


def report(address, pools, prefixes=(), *, ready=True, weight=100, load=0, pressure=0, connections=0, probe_micros=1000, report_id=1):
    body = struct.pack("!BBBBIHHHII", 1 if ready else 0, 0, 1, 0, report_id, weight, load, pressure, connections, probe_micros)
    if address.startswith("unix:"):
        path = address[5:].encode()
        body += bytes([1, len(path)]) + path
    else:
        host, port = split_address(address)
        packed = ipaddress.ip_address(host).packed
        body += bytes([4 if len(packed) == 4 else 6]) + packed + struct.pack("!H", port)
    for strings in ([p.encode() for p in pools], prefixes):
        body += bytes([len(strings)]) + b"".join(bytes([len(s)]) + s for s in strings)
    return body


def tokens(first, items, *, ttl=600, base=None):
    """Items are bytes (added)."""
    body = struct.pack("!QQH", first if base is None else base, first, len(items))
    return body + b"".join(bytes([len(i)]) + struct.pack("!I", ttl) + i for i in items)


def key_of(path):
    """The secret out of the file that keygen wrote: NAME HEX64."""
    return bytes.fromhex(path.read_text().split()[-1])


class PyAgent:
    """Speaks for one node until stopped. `name`, `address`, `pools`, `prefixes`, `weight`… may be changed while it runs."""

    def __init__(self, stage, name, key, proxy, address, *, pools=("web",), prefixes=(), every=0.2, epoch=None, **health):
        self.name, self.key, self.proxy, self.address = name, key, proxy, address
        self.pools, self.prefixes, self.health, self.every = list(pools), list(prefixes), health, every
        self.epoch = epoch or int(time.time() * 1e6)
        self.nonce, self.sequence, self.next_token, self.report_id = 0, 0, 1, 1
        self.last_tokens = 0
        self.journal, self.answers, self.recorded = [], [], []
        self.muted = False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.connect(split_address(proxy))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        stage.own(self)

    def send(self, kind, body):
        self.sequence += 1
        datagram = seal(self.key, self.name, kind, body, epoch=self.epoch, nonce=self.nonce, sequence=self.sequence)
        self.recorded.append(datagram)
        del self.recorded[:-2000]
        try:
            self.socket.send(datagram)
        except OSError:
            pass  # the proxy is restarting

    def beat(self):
        self.send(STILL_HERE, report(self.address, self.pools, self.prefixes, report_id=self.report_id, **self.health))

    def say(self, **changes):
        """A new report: changes address, pools, prefixes or health."""
        for name, value in changes.items():
            if name in ("address", "pools", "prefixes"):
                setattr(self, name, value)
            else:
                self.health[name] = value
        self.report_id += 1
        self.beat()

    def add_tokens(self, items):
        self.journal += items

    def die(self):
        self._stopping.set()
        self._thread.join()
        for _ in range(3):
            self.send(DYING, b"")

    def _send_tokens(self, budget=50):
        for _ in range(budget):
            batch = self.journal[self.next_token - 1:self.next_token - 1 + 30]
            if not batch:
                return
            self.send(TOKENS, tokens(self.next_token, batch))
            self.last_tokens = self.sequence
            self.next_token += len(batch)

    def _run(self):
        next_beat = 0
        while not self._stopping.is_set():
            if not self.muted and time.monotonic() >= next_beat:
                self.beat()
                next_beat = time.monotonic() + self.every
            if not self.muted:
                self._send_tokens()
            if not select.select([self.socket], [], [], 0.02)[0]:
                continue
            try:
                datagram = self.socket.recv(2048)
            except OSError:
                continue
            self._hear(datagram)

    def _hear(self, datagram):
        opened = open_datagram(self.key, datagram)
        if opened is None:
            return
        kind, nonce, body = opened
        self.answers.append(kind)
        del self.answers[:-1000]
        if kind == CHALLENGE and nonce != self.nonce:
            self.nonce, self.sequence, self.next_token, self.last_tokens = nonce, 0, 1, 0
            if not self.muted:
                self.beat()
        elif kind == SYNC:
            next_token, answered = struct.unpack("!QQ", body[:16])
            if answered >= self.last_tokens:  # else tokens are under way that it could not know of
                self.next_token = min(self.next_token, next_token)

    def close(self):
        self._stopping.set()
        self._thread.join()
        self.socket.close()
        return []


def random_key():
    return os.urandom(32)


def key_line(name, key, pools="web", addresses="127.0.0.0/8", more=""):
    """The line of the proxy's keys file."""
    return f"node={name} key={key.hex()} pools={pools} addresses={addresses}{more and ' '}{more}\n"
