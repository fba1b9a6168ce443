"""HAProxy in front of the nodes, for comparison: round robin, and with its documented TLS session-id stickiness."""
from harness import Process, connect, require_program, wait_until

GLOBAL = """\
global
  maxconn 4000
  nbthread 2
defaults
  mode tcp
  timeout connect 2s
  timeout client 60s
  timeout server 60s
"""

# "stick store-response" in HAProxy's configuration manual, with the fetches' names of 2.6.
# The manual's example notes that there is no response inspect-delay by default: without one nothing is ever learned.
STICKY = """\
  stick-table type binary len 32 size 30k expire 30m
  acl clienthello req.ssl_hello_type 1
  acl serverhello res.ssl_hello_type 2
  tcp-request inspect-delay 5s
  tcp-request content accept if clienthello
  tcp-response inspect-delay 5s
  tcp-response content accept if serverhello
  stick on req.payload_lv(43,1) if clienthello
  stick store-response res.payload_lv(43,1) if serverhello
"""


class HaproxyBalancer(Process):
    """`round_robin` and `sticky` are its two addresses."""

    def __init__(self, stage, nodes, name="haproxy"):
        self.round_robin, self.sticky = stage.address(), stage.address()
        servers = "".join(f"  server {node.node_name} {node.address}\n" for node in nodes)
        text = GLOBAL
        for listen, bind, rules in (("plain", self.round_robin, ""), ("sticky", self.sticky, STICKY)):
            text += f"frontend front_{listen}\n  bind {bind}\n  default_backend {listen}\n"
            text += f"backend {listen}\n  balance roundrobin\n{rules}{servers}"
        path = stage.write(f"{name}.cfg", text)
        super().__init__(stage, name, [require_program("haproxy"), "-db", "-f", path])
        wait_until(self._accepts, "HAProxy listening")

    def _accepts(self):
        assert self.alive(), f"HAProxy ended: {self.log()[-1000:]}"
        try:
            connect(self.round_robin, 1).close()
            return True
        except OSError:
            return False
