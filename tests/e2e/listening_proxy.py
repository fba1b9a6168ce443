"""The proxy's side of the beacon protocol, written in Python from deploy/beacon-protocol.md: hears one agent out, answers it
as a proxy does, and keeps what it was told."""
import hashlib
import hmac
import secrets
import socket
import struct
import threading

ENVELOPE = struct.Struct(">4sBBBxQQQQ4s32s")
TYPES = {1: "ALIVE", 2: "DYING", 3: "STILL_HERE", 4: "TOKENS"}
CHALLENGE, SYNC = 5, 6


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, count):
        assert len(self.data) >= count, "a body that ends too early"
        head, self.data = self.data[:count], self.data[count:]
        return head

    def number(self, width):
        return int.from_bytes(self.take(width), "big")


def read_address(reader):
    kind = reader.number(1)
    if kind == 4:
        return socket.inet_ntop(socket.AF_INET, reader.take(4)) + f":{reader.number(2)}"
    if kind == 6:
        return f"[{socket.inet_ntop(socket.AF_INET6, reader.take(16))}]:{reader.number(2)}"
    assert kind == 1, f"address of kind {kind}"
    return "unix:" + reader.take(reader.number(1)).decode()


def read_report(body):
    reader = Reader(body)
    report = {"ready": bool(reader.number(1) & 1), "part": reader.number(1), "parts": reader.number(1)}
    reader.take(1)
    for name, width in (("report_id", 4), ("weight", 2), ("load", 2), ("pressure", 2), ("connections", 4), ("probe_micros", 4)):
        report[name] = reader.number(width)
    report["address"] = read_address(reader)
    report["pools"] = [reader.take(reader.number(1)).decode() for _ in range(reader.number(1))]
    report["prefixes"] = [reader.take(reader.number(1)) for _ in range(reader.number(1))]
    return report


class ListeningProxy:
    """Answers the agents whose keys it has. `close()` ends its thread."""

    def __init__(self, stage, *key_paths):
        self.keys = {}
        for path in key_paths:
            name, key = path.read_text().split()
            self.keys[name] = bytes.fromhex(key)
        self.nonce = secrets.randbits(63) | 1
        self.sequence = 0
        self.lock = threading.Lock()
        self.heard = []    # (node, type), of all that was fresh
        self.reports = {}  # node → the newest report, its parts joined
        self._parts = {}
        self.tokens = {}   # node → set
        self._next = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((stage.host(), 0))
        self.address = "%s:%d" % self.socket.getsockname()
        self.socket.settimeout(0.1)
        self._leave = False
        self.fault = None
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        stage.own(self)

    def close(self):
        self._leave = True
        self._thread.join()
        self.socket.close()
        return [f"the listening proxy: {self.fault!r}"] if self.fault else []

    def _listen(self):
        while not self._leave:
            try:
                data, sender = self.socket.recvfrom(2048)
            except TimeoutError:
                continue
            try:
                with self.lock:
                    answer = self._take(data)
            except Exception as error:  # told when the case ends
                self.fault = error
                return
            if answer:
                assert len(answer) <= len(data)
                self.socket.sendto(answer, sender)

    def _take(self, data):
        magic, version, direction, kind, epoch, nonce, sequence, micros, _, node = ENVELOPE.unpack(data[:76])
        assert (magic, version, direction) == (b"HUDB", 1, 1), "not a beacon"
        node = node.rstrip(b"\0").decode()
        key = self.keys[node]
        assert hmac.digest(key, data[:-32], hashlib.sha256) == data[-32:], "a MAC that does not hold"
        if nonce != self.nonce:
            return self._answer(key, node, CHALLENGE, epoch, micros, struct.pack(">QQ", sequence, 0))
        self.heard.append((node, TYPES[kind]))
        body = data[76:-32]
        if TYPES[kind] == "TOKENS":
            self._take_tokens(node, body)
        elif TYPES[kind] != "DYING":
            self._take_report(node, read_report(body))
        return self._answer(key, node, SYNC, epoch, micros, struct.pack(">QQ", self._next.get(node, 1), sequence))

    def _take_report(self, node, report):
        parts = self._parts.setdefault((node, report["report_id"]), {})
        parts[report["part"]] = report
        if len(parts) == report["parts"]:
            whole = dict(parts[0])
            whole["prefixes"] = [prefix for part in sorted(parts) for prefix in parts[part]["prefixes"]]
            self.reports[node] = {**whole, **{k: report[k] for k in ("load", "pressure", "connections", "probe_micros")}}

    def _take_tokens(self, node, body):
        reader = Reader(body)
        base, first = reader.number(8), reader.number(8)
        tokens, following = self.tokens.setdefault(node, set()), self._next.get(node, 1)
        if following < base:
            return
        for number in range(first, first + reader.number(2)):
            length = reader.number(1)
            if length == 0:
                continue
            if length < 128:
                reader.take(4)
            token = reader.take(length & 127)
            if number >= following:
                (tokens.add if length < 128 else tokens.discard)(token)
            following = max(following, number + 1)
        self._next[node] = max(following, first)

    def _answer(self, key, node, kind, epoch, micros, body):
        self.sequence += 1
        key_id = hmac.digest(key, b"hudsucker beacon key id", hashlib.sha256)[:4]
        head = ENVELOPE.pack(b"HUDB", 1, 2, kind, epoch, self.nonce, self.sequence, micros, key_id, node.encode())
        return head + body + hmac.digest(key, head + body, hashlib.sha256)

    def report(self, node):
        with self.lock:
            return self.reports.get(node)

    def prefixes(self, node):
        report = self.report(node)
        return report["prefixes"] if report else []

    def tokens_of(self, node):
        with self.lock:
            return set(self.tokens.get(node, ()))

    def count(self, node, kind):
        with self.lock:
            return self.heard.count((node, kind))
