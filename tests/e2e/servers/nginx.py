"""nginx as a node: its own folder, its own keys, any mix of TLS versions, tickets or ids, and the syslog feed."""
import os

from harness import Process, connect, require_program, wait_until

CONFIG = """\
daemon off;
master_process on;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log stderr notice;
{user}
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  {http}
  log_format hud "{log_format}";
  access_log {access_log};
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_timeout 65;
  server {{
    listen {address} ssl{listen_options} backlog=4096;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols {protocols};
    ssl_session_cache {cache};
    ssl_session_tickets {tickets};
    ssl_session_timeout 1h;
    {more}
    add_header X-Node {name} always;
    location = /big {{ root {folder}/html; }}
    location / {{ return 200 "{name}\\n"; }}
  }}
}}
"""


class Nginx(Process):
    """Answers every request with its name, in the header X-Node too."""

    def __init__(self, stage, name, *, address=None, protocols="TLSv1.2 TLSv1.3", tickets=True, cache="shared:hud:10m",
                 num_tickets=None, ticket_keys=(), syslog=None, log_format="hud_session=$ssl_session_id", certificate_kind="ec",
                 listen_options="", more="", http="", workers=1, preexec=None):
        self.folder = stage.path(name)
        (self.folder / "html").mkdir(parents=True, exist_ok=True)
        self.address = address or stage.address()
        certificate, key = stage.certificate(certificate_kind)
        lines = [more]
        if num_tickets is not None:
            lines.append(f"ssl_conf_command NumTickets {num_tickets};")
        lines += [f"ssl_session_ticket_key {path};" for path in ticket_keys]
        text = CONFIG.format(
            workers=workers, folder=self.folder, user="user root;" if os.geteuid() == 0 else "", log_format=log_format,
            access_log=f"syslog:server=unix:{syslog},nohostname,tag=nginx hud" if syslog else "off", address=self.address,
            certificate=certificate, key=key, protocols=protocols, cache=cache, tickets="on" if tickets else "off", name=name,
            http=http, listen_options=(" " + listen_options) if listen_options else "", more="\n    ".join(filter(None, lines)))
        path = stage.write(f"{name}.conf", text)
        super().__init__(stage, name, [require_program("nginx"), "-p", self.folder, "-c", path, "-e", "stderr"], group=True,
                         preexec=preexec)
        self.node_name = name
        if self.address.startswith("unix:"):
            wait_until(lambda: os.path.exists(self.address[5:]), f"{name}'s socket")
        else:
            wait_until(self._accepts, f"{name} listening")

    def _accepts(self):
        assert self.alive(), f"{self.name} ended: {self.log()[-1000:]}"
        try:
            connect(self.address, 1).close()
            return True
        except OSError:
            return False


# What each mode of the demo and the tables asks of nginx, and what the agent needs to know of it.
MODES = {
    "tls12-ticket": {"protocols": "TLSv1.2"},
    "tls12-id": {"protocols": "TLSv1.2", "tickets": False},
    "tls13-ticket": {"protocols": "TLSv1.3"},
    "tls13-stateful": {"protocols": "TLSv1.3", "tickets": False, "num_tickets": 1},
}
EXACT_MODES = ("tls12-id", "tls13-stateful")  # these need the syslog feed
