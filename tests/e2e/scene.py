"""The scene of the demo and of the affinity tests: nginx nodes of one kind, an agent on each, the proxy in front."""
from harness import Agent, Hudsucker, Stage, make_key, tls_client, wait_until
from servers.nginx import EXACT_MODES, MODES, Nginx

# The id of a session is known when the server has logged its request: a client that is back within these has outrun the log.
EXACT_FEED_WAIT_MS = 300


class Scene:
    """`settings` go to every nginx; `feed` says that session ids are learned from its log, else by probing it."""

    def __init__(self, stage, count, *, feed=False, agent=None, **settings):
        self.stage, self.feed = stage, feed
        self.names = [f"n{i + 1}" for i in range(count)]
        self.keys = {n: make_key(stage, n) for n in self.names}
        self.proxy = Hudsucker(stage, [{"name": "web"}], keys=[line for _, line in self.keys.values()])
        self.nodes, self.agents = {}, {}
        for n in self.names:
            path = str(stage.path(f"{n}.feed")) if feed else None
            address = stage.address()
            # The agent first: it owns the socket that its nginx logs to. Its probe succeeds as soon as nginx is there.
            more = {"feeds": {"syslog": path}} if feed else {}
            self.agents[n] = Agent(stage, n, address, [self.proxy.beacon_address], self.keys[n][0], **more, **(agent or {}))
            self.nodes[n] = Nginx(stage, n, address=address, syslog=path, **settings)
        self.wait_up()

    @classmethod
    def of_mode(cls, stage, mode, count, **rest):
        return cls(stage, count, feed=mode in EXACT_MODES, **MODES[mode], **rest)

    def wait_up(self):
        self.proxy.wait_states({n: "up" for n in self.names})

    def rows(self):
        return sorted(self.proxy.pool("web")["nodes"], key=lambda node: node["name"])

    def counted(self):
        """(offered, resumed) as /status has them, over all nodes."""
        rows = self.rows()
        return sum(r["offered"] for r in rows), sum(r["resumed"] for r in rows)

    def clients(self, mode, *, clients, **options):
        """Clients that come back through the proxy; returns what they counted."""
        def inserted():
            return self.proxy.status()["affinity"]["inserted"]
        before = inserted()

        def ids_are_known(times):
            # A TLS 1.3 server gives a new id with each connection.
            wait_until(lambda: inserted() - before >= clients * (times if mode == "tls13-stateful" else 1), "the ids at the proxy")
        return tls_client(self.proxy.address, mode, clients=clients, between=ids_are_known if mode in EXACT_MODES and self.feed else None, **options)


__all__ = ["EXACT_FEED_WAIT_MS", "EXACT_MODES", "MODES", "Scene", "Stage"]
