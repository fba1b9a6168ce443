#!/usr/bin/env python3
"""Records the first bytes of real TLS clients and servers, as seeds for the fuzzers and input for the unit tests.

  record_hellos.py [NAME...]     (all of them when none is named)

Writes, beside this file, corpus/client_hello/real_NAME (the client's first bytes) and corpus/server_hello/real_NAME
(16 bits of length, the client's first bytes, then the server's). Clients that are not installed are said and left out.
A client that comes back within one case gives two recordings: NAME_1 and NAME_2.
"""
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
SNI = "www.example.com"


class Recorder:
    """A TCP relay in front of a server that keeps what each side says first."""

    def __init__(self, server_port):
        self.server_port = server_port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections = []  # (client bytes, server bytes)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            record = [b"", b""]
            self.connections.append(record)
            server = socket.create_connection(("127.0.0.1", self.server_port))
            threading.Thread(target=self.pump, args=(client, server, record, 0), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, record, 1), daemon=True).start()

    @staticmethod
    def pump(source, sink, record, side):
        while True:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            # The client's first flight ends when the server has spoken.
            if (side == 0 and not record[1]) or (side == 1 and len(record[1]) < 2048):
                record[side] += data
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                return


def run(command, stdin=b"", timeout=20, **more):
    return subprocess.run(command, input=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=timeout, **more)


def s_client(port, directory, *options, resume=False, twice=True):
    session = f"{directory}/session"
    base = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", SNI, *options]
    # s_client leaves when its input ends; TLS 1.3 tickets come a moment later.
    slow_end = f"(sleep 0.4) | {' '.join(base)}"
    subprocess.run(["sh", "-c", f"{slow_end} -sess_out {session}"], capture_output=True, timeout=20)
    if twice:
        early = f"{directory}/early"
        pathlib.Path(early).write_text("GET / HTTP/1.0\r\n\r\n")
        tail = f" -early_data {early}" if resume == "early" else ""
        subprocess.run(["sh", "-c", f"{slow_end} -sess_in {session}{tail}"], capture_output=True, timeout=20)


def gnutls_cli(port, priority):
    run(["sh", "-c", f"(sleep 1) | gnutls-cli --insecure --resume --waitresumption --sni-hostname {SNI} --alpn h2 --alpn http/1.1 "
         f"--priority {priority} -p {port} 127.0.0.1"])


def python_ssl(port, version):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = context.minimum_version = version
    context.set_alpn_protocols(["http/1.1"])
    session = None
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            with context.wrap_socket(raw, server_hostname=SNI, session=session) as tls:
                tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while tls.recv(65536):
                    pass
                session = tls.session


JAVA = """
import java.security.cert.X509Certificate;
import javax.net.ssl.*;
public class Hello {
  public static void main(String[] a) throws Exception {
    TrustManager trust = new X509ExtendedTrustManager() {
      public void checkClientTrusted(X509Certificate[] c, String s) {}
      public void checkServerTrusted(X509Certificate[] c, String s) {}
      public void checkClientTrusted(X509Certificate[] c, String s, java.net.Socket k) {}
      public void checkServerTrusted(X509Certificate[] c, String s, java.net.Socket k) {}
      public void checkClientTrusted(X509Certificate[] c, String s, SSLEngine e) {}
      public void checkServerTrusted(X509Certificate[] c, String s, SSLEngine e) {}
      public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    };
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(null, new TrustManager[] {trust}, null);
    for (int i = 0; i < 2; i++) {
      java.net.Socket raw = new java.net.Socket("127.0.0.1", Integer.parseInt(a[0]));
      SSLSocket tls = (SSLSocket) context.getSocketFactory().createSocket(raw, "www.example.com", Integer.parseInt(a[0]), true);
      tls.setEnabledProtocols(new String[] {a[1]});
      tls.getOutputStream().write("GET / HTTP/1.0\\r\\n\\r\\n".getBytes());
      tls.getInputStream().readAllBytes();
      tls.close();
    }
  }
}
"""


def java(port, directory, version):
    pathlib.Path(f"{directory}/Hello.java").write_text(JAVA)
    run(["java", f"{directory}/Hello.java", str(port), version], timeout=60)


def curl(port, *options):
    run(["curl", "-sk", "--connect-to", f"{SNI}:443:127.0.0.1:{port}", *options, f"https://{SNI}/"])


def caddy(port, directory):
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    pathlib.Path(f"{directory}/Caddyfile").write_text(
        f"{{\n admin off\n auto_https off\n}}\nhttp://127.0.0.1:{own} {{\n reverse_proxy https://127.0.0.1:{port} {{\n transport http {{\n"
        f" tls_insecure_skip_verify\n tls_server_name {SNI}\n keepalive off\n }}\n }}\n}}\n")
    environment = dict(os.environ, HOME=directory, XDG_CONFIG_HOME=directory, XDG_DATA_HOME=directory)
    process = subprocess.Popen(["caddy", "run", "--config", f"{directory}/Caddyfile", "--adapter", "caddyfile"],
                               env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(2):
            run(["curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", f"http://127.0.0.1:{own}/"], timeout=40)
    finally:
        process.terminate()
        process.wait()


V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
# name: (program needed, options of openssl s_server, what the client does)
CASES = {
    "openssl_tls12_ticket": ("openssl", [], lambda p, d: s_client(p, d, "-tls1_2")),
    "openssl_tls12_session_id": ("openssl", ["-no_ticket"], lambda p, d: s_client(p, d, "-tls1_2")),
    "openssl_tls13_ticket": ("openssl", [], lambda p, d: s_client(p, d, "-tls1_3")),
    "openssl_tls13_stateful": ("openssl", ["-no_ticket"], lambda p, d: s_client(p, d, "-tls1_3")),
    "openssl_tls13_retry": ("openssl", ["-groups", "P-384"], lambda p, d: s_client(p, d, "-tls1_3", "-groups", "X25519:P-384")),
    "openssl_tls13_early_data": ("openssl", ["-early_data", "-no_anti_replay"], lambda p, d: s_client(p, d, "-tls1_3", resume="early")),
    "openssl_tls13_to_tls12": ("openssl", ["-tls1_2"], lambda p, d: s_client(p, d)),
    "gnutls_tls12": ("gnutls-cli", [], lambda p, d: gnutls_cli(p, "NORMAL:-VERS-TLS1.3")),
    "gnutls_tls13": ("gnutls-cli", [], lambda p, d: gnutls_cli(p, "NORMAL")),
    "python_tls12": ("python3", [], lambda p, d: python_ssl(p, V12)),
    "python_tls13": ("python3", [], lambda p, d: python_ssl(p, V13)),
    "java_tls12": ("java", [], lambda p, d: java(p, d, "TLSv1.2")),
    "java_tls13": ("java", [], lambda p, d: java(p, d, "TLSv1.3")),
    "curl": ("curl", [], lambda p, d: curl(p)),
    "go": ("caddy", [], lambda p, d: caddy(p, d)),
}


def wait_until_listening(port):
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("openssl s_server does not listen")


def record(name, directory):
    program, server_options, client = CASES[name]
    if shutil.which(program) is None:
        print(f"{name}: left out, {program} is not installed")
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        server_port = free.getsockname()[1]
    # s_server has no page to give when it takes early data; then it reads its input, which must not end.
    page = [] if "-early_data" in server_options else ["-www"]
    server = subprocess.Popen(
        ["openssl", "s_server", "-accept", str(server_port), "-cert", f"{directory}/cert.pem", "-key", f"{directory}/key.pem",
         *page, *server_options], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_listening(server_port)
        recorder = Recorder(server_port)
        client(recorder.port, directory)
        time.sleep(0.2)
        recorder.listener.close()
    finally:
        server.terminate()
        server.wait()
    for index, (from_client, from_server) in enumerate(recorder.connections[:2], 1):
        for folder, content in (("client_hello", from_client),
                                ("server_hello", len(from_client).to_bytes(2, "big") + from_client + from_server[:2048])):
            path = HERE / "corpus" / folder / f"real_{name}_{index}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        print(f"{name}_{index}: {len(from_client)} bytes, answered with {len(from_server)}")
    if not recorder.connections:
        print(f"{name}: nothing came")


def main():
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                        f"{directory}/key.pem", "-out", f"{directory}/cert.pem", "-subj", f"/CN={SNI}", "-days", "2"],
                       check=True, capture_output=True)
        for name in sys.argv[1:] or CASES:
            record(name, directory)


main()
