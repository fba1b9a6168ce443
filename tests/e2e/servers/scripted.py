"""Plain TCP nodes with scripted behaviour: what each connection meets is a Python function."""
import socket
import struct
import threading
import time

from harness import split_address


def reset(connection):
    """Closes it with a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_exactly(connection, count):
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(min(65536, count - len(data)))
        if not piece:
            break
        data += piece
    return bytes(data)


def read_to_end(connection):
    """All bytes until FIN; raises ConnectionResetError when it ends otherwise."""
    data = bytearray()
    while piece := connection.recv(65536):
        data += piece
    return bytes(data)


class ScriptedNode:
    """Accepts and hands every connection to `script(connection, node)` in a thread of its own.

    `connections` counts what was accepted; `results` keeps what scripts returned, `errors` what they raised.
    """

    def __init__(self, stage, script, *, name="scripted", address=None, family=socket.AF_INET, receive_buffer=None):
        self.node_name, self.script = name, script
        self.address = address or stage.address()
        self.connections, self.results, self.errors = 0, [], []
        self._open, self._closing = set(), False
        if self.address.startswith("unix:"):
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.address[5:])
        else:
            self._listener = socket.socket(family)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if receive_buffer:
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self._listener.bind(split_address(self.address))
        self._listener.listen(4096)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        stage.own(self)

    def _accept(self):
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            self.results.append(self.script(connection, self))
        except Exception as error:  # a reset is often what the case wants to see
            self.errors.append(error)
        finally:
            self._open.discard(connection)
            try:
                connection.close()
            except OSError:
                pass

    def reset_all(self):
        """As a node that dies: every connection ends with a reset, and nothing more is accepted."""
        self.close(with_reset=True)

    def close(self, with_reset=False):
        self._closing = True
        for stop in (lambda: self._listener.shutdown(socket.SHUT_RDWR), self._listener.close):
            try:
                stop()
            except OSError:
                pass
        for connection in list(self._open):
            try:
                if with_reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR) if not with_reset else connection.close()
            except OSError:
                pass
        return []

    def as_node(self):
        return {"name": self.node_name, "address": self.address}


def echo(connection, _node):
    """Sends back what it gets; a FIN is answered by a FIN."""
    while data := connection.recv(65536):
        connection.sendall(data)


def collect(connection, _node):
    """Keeps all that it gets until FIN, in `results`."""
    return read_to_end(connection)


def silent(connection, _node):
    """Accepts, and never says a word; keeps the connection until the other side ends it."""
    connection.settimeout(600)
    try:
        while connection.recv(65536):
            pass
    except OSError:
        pass


def answer_name(connection, node):
    """Reads something, answers with the node's name and ends."""
    connection.recv(65536)
    connection.sendall(node.node_name.encode())


class Refusing:
    """An address where nobody listens: connects are refused."""

    def __init__(self, stage, name="refusing"):
        self.node_name, self.address = name, stage.address()

    def as_node(self):
        return {"name": self.node_name, "address": self.address}


class Unanswering:
    """An address that does not answer a SYN at all: its accept queue is full and nobody accepts."""

    def __init__(self, stage, name="unanswering"):
        self.node_name, self.address = name, stage.address()
        self._listener = socket.socket()
        self._listener.bind(split_address(self.address))
        self._listener.listen(0)
        self._fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(split_address(self.address))
            self._fillers.append(filler)
        time.sleep(0.1)
        stage.own(self)

    def as_node(self):
        return {"name": self.node_name, "address": self.address}

    def close(self):
        for filler in self._fillers:
            filler.close()
        self._listener.close()
        return []
