"""The other TLS servers of the table: OpenSSL s_server, Apache, HAProxy, GnuTLS, Java (JSSE), Caddy.

Each class says which modes it has, which feed teaches the agent (`None`: the self-probe), and its own version.
`MODES[mode]` is the mode's feed; a mode that is missing is one that the server does not have, or for which it has no feed.
"""
import os
import pathlib
import re
import socket
import subprocess

from harness import Process, connect, require_program, wait_until

TICKET_MODES = {"tls12-ticket": None, "tls13-ticket": None}


def version_of(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found.group(0) if found else "?"


class TlsServer(Process):
    """Waits until the port accepts."""

    def launch(self, stage, name, arguments, **options):
        self.node_name = name
        super().__init__(stage, name, arguments, **options)
        wait_until(self._accepts, f"{name} listening")

    def _accepts(self):
        assert self.alive(), f"{self.name} ended: {self.log()[-1000:]}"
        try:
            connect(self.address, 1).close()
            return True
        except OSError:
            return False


class OpensslServer(TlsServer):
    LABEL, MODES = "OpenSSL s_server", TICKET_MODES

    def __init__(self, stage, name, mode, feed=None):
        certificate, key = stage.certificate()
        self.address = stage.address()
        version = "-tls1_2" if mode.startswith("tls12") else "-tls1_3"
        self.launch(stage, name, ["openssl", "s_server", "-accept", self.address, "-www", "-cert", certificate, "-key", key, version])

    @staticmethod
    def version():
        return version_of("openssl", "version")


APACHE = """\
ServerRoot {folder}
PidFile {folder}/pid
ServerName localhost
Listen {address}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule socache_shmcb_module {modules}/mod_socache_shmcb.so
LoadModule ssl_module {modules}/mod_ssl.so
LoadModule headers_module {modules}/mod_headers.so
{user}
ErrorLog {folder}/error.log
Mutex file:{folder} default
DefaultRuntimeDir {folder}
DocumentRoot {folder}
Header always set X-Node {name}
SSLEngine on
SSLCertificateFile {certificate}
SSLCertificateKeyFile {key}
SSLProtocol {protocol}
SSLSessionCache shmcb:{folder}/cache(2000000)
SSLSessionCacheTimeout 3600
SSLSessionTickets {tickets}
{more}
"""


class Apache(TlsServer):
    LABEL = "Apache httpd"
    MODES = {**TICKET_MODES, "tls12-id": "syslog", "tls13-stateful": "syslog"}

    def __init__(self, stage, name, mode, feed=None):
        self.folder = stage.path(name)
        self.folder.mkdir()
        (self.folder / "index.html").write_text(name)
        self.address = stage.address()
        certificate, key = stage.certificate()
        stateful = mode in ("tls12-id", "tls13-stateful")
        more = ""
        if feed:
            # Apache has no syslog for its access log: it pipes to logger, which speaks to the agent's socket.
            more += f'LogFormat "hud_session=%{{SSL_SESSION_ID}}x" hud\nCustomLog "|/usr/bin/logger --socket {feed} --tag apache" hud\n'
        if mode == "tls13-stateful":
            more += "SSLOpenSSLConfCmd NumTickets 1\n"
        text = APACHE.format(folder=self.folder, address=self.address, modules="/usr/lib/apache2/modules", certificate=certificate,
                             user="User daemon\nGroup daemon" if os.geteuid() == 0 else "", key=key, name=name,
                             protocol="TLSv1.2" if mode.startswith("tls12") else "TLSv1.3", tickets="off" if stateful else "on",
                             more=more)
        config = stage.write(f"{name}.conf", text)
        self.launch(stage, name, [require_program("apache2"), "-DFOREGROUND", "-f", config],
                    env={"APACHE_RUN_DIR": str(self.folder)})

    @staticmethod
    def version():
        return version_of(require_program("apache2"), "-v")


HAPROXY = """\
global
  maxconn 2000
  {log}
  tune.ssl.cachesize 20000
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
frontend tls
  bind {address} ssl crt {pem} ssl-min-ver {version} ssl-max-ver {version} {tickets}
  {log_format}
  http-request return status 200 content-type text/plain string {name} hdr X-Node {name}
"""


class HaproxyServer(TlsServer):
    LABEL = "HAProxy"
    MODES = {**TICKET_MODES, "tls12-id": "syslog", "tls13-stateful": "syslog"}

    def __init__(self, stage, name, mode, feed=None):
        self.address = stage.address()
        certificate, key = stage.certificate()
        pem = stage.write(f"{name}.pem", certificate.read_bytes() + key.read_bytes(), 0o600)
        stateful = mode in ("tls12-id", "tls13-stateful")
        text = HAPROXY.format(address=self.address, pem=pem, version="TLSv1.2" if mode.startswith("tls12") else "TLSv1.3",
                              tickets="no-tls-tickets" if stateful else "", name=name,
                              log=f"log {feed} len 1024 local0" if feed else "",
                              log_format='log global\n  log-format "hud_session=%[ssl_fc_session_id,hex]"' if feed else "")
        config = stage.write(f"{name}.cfg", text)
        self.launch(stage, name, [require_program("haproxy"), "-db", "-f", config])

    @staticmethod
    def version():
        return version_of(require_program("haproxy"), "-v")


class GnutlsServer(TlsServer):
    LABEL, MODES = "GnuTLS gnutls-serv", TICKET_MODES

    def __init__(self, stage, name, mode, feed=None):
        certificate, key = stage.certificate()
        port = stage.wildcard_port()  # it always binds all addresses
        self.address = f"{stage.host()}:{port}"
        version = "VERS-TLS1.2" if mode.startswith("tls12") else "VERS-TLS1.3"
        self.launch(stage, name, [require_program("gnutls-serv"), "--http", "--quiet", "--disable-client-cert", "--x509certfile", certificate,
                                  "--x509keyfile", key, "--port", port, "--priority", f"NORMAL:-VERS-ALL:+{version}"])

    @staticmethod
    def version():
        return version_of(require_program("gnutls-serv"), "--version")


class JavaServer(TlsServer):
    LABEL, MODES = "Java (JSSE)", TICKET_MODES

    def __init__(self, stage, name, mode, feed=None):
        self.address = stage.address()
        certificate, key = stage.certificate()
        store = stage.path(f"{name}.p12")
        subprocess.run(["openssl", "pkcs12", "-export", "-in", certificate, "-inkey", key, "-out", store, "-passout", "pass:hudsucker"],
                       check=True, capture_output=True)
        host, port = self.address.rsplit(":", 1)
        source = pathlib.Path(__file__).with_name("JsseServer.java")
        self.launch(stage, name, [require_program("java"), "-XX:TieredStopAtLevel=1", "-Xshare:auto", source, host, port, store,
                                  "TLSv1.2" if mode.startswith("tls12") else "TLSv1.3", name])

    @staticmethod
    def version():
        return version_of("java", "-version")


CADDY = """\
{{
  admin off
  auto_https off
  storage file_system {folder}
}}
https://{host}:{port}, https://www.example.com:{port} {{
  bind {host}
  tls {certificate} {key} {{
    protocols {version} {version}
  }}
  header X-Node {name}
  respond "{name}"
}}
"""


class Caddy(TlsServer):
    LABEL, MODES = "Caddy", TICKET_MODES

    def __init__(self, stage, name, mode, feed=None):
        self.address = stage.address()
        folder = stage.path(name)
        folder.mkdir()
        host, port = self.address.rsplit(":", 1)
        certificate, key = stage.certificate()
        config = stage.write(f"{name}.Caddyfile", CADDY.format(folder=folder, host=host, port=port, certificate=certificate, key=key,
                                                               version="tls1.2" if mode.startswith("tls12") else "tls1.3", name=name))
        self.launch(stage, name, [require_program("caddy"), "run", "--adapter", "caddyfile", "--config", config],
                    env={"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)})

    @staticmethod
    def version():
        return version_of(require_program("caddy"), "version")
