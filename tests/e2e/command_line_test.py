#!/usr/bin/env python3
"""The programs' command lines and files: bad input gets one clear message that says what, where and what to do."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

from beacon_bytes import key_line, random_key
from harness import PROGRAMS, Agent, Hudsucker, Process, connect, http_get, make_key, to_yaml, wait_until
from runner import Skip, case, main
from servers.nginx import Nginx
from servers.scripted import ScriptedNode, answer_name, read_to_end


# What keygen wants to know of a key.
SCOPE = ("--pools", "web", "--addresses", "10.0.0.11")


def run(program, *arguments, cwd=None, seconds=60):
    return subprocess.run([PROGRAMS / program, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=seconds)


def complains(done, *words):
    """It failed, said each of these, and said it in words for a person: no trace, no exception's name."""
    text = done.stdout + done.stderr
    assert done.returncode not in (0, -6, -11, 134, 139), f"ended with {done.returncode}: {text}"
    for word in words:
        assert word.lower() in text.lower(), f"{word!r} is not in: {text}"
    for word in ("terminate called", "Sanitizer", "std::", "what():", "broken invariant"):
        assert word not in text, text
    return text


def good_config(stage):
    return {"workers": 1, "listeners": [{"name": "tls", "bind": stage.address(), "default_pool": "web"}],
            "pools": [{"name": "web", "nodes": [{"name": "n1", "address": "127.0.0.1:9"}]}], "status": {"bind": stage.address()}}


@case
def quick_start_without_a_file_needs_a_listener_and_nodes_only(stage):
    a, b = ScriptedNode(stage, answer_name, name="a"), ScriptedNode(stage, answer_name, name="b")
    address = stage.address()
    proxy = Process(stage, "hudsucker", [PROGRAMS / "hudsucker", "--listen", address, "--node", a.address, "--node", b.address], fatal=True)

    def answered():
        assert proxy.alive(), proxy.log()
        try:
            with connect(address) as client:
                client.sendall(b"who?")
                return read_to_end(client)
        except OSError:
            return None
    wait_until(answered, "an answer")
    assert {answered() for _ in range(30)} == {b"a", b"b"}


@case
def check_prints_all_errors_of_a_file_each_with_its_line(stage):
    path = stage.write("bad.yaml", """\
workers: many
listeners:
  - name: tls
    bind: "localhost:443"
    default_pool: nowhere
    helo: {deadline: 5s}
pools:
  - name: web
    balance: fastest
    nodes: [{name: n1, address: "10.0.0.1"}, {name: n1, address: "10.0.0.2:1", weight: 5000}]
timeouts: {idle: -3s}
""")
    done = run("hudsucker", "--check", path)
    text = complains(done, "bad.yaml:1", "bad.yaml:4", "bad.yaml:5", "bad.yaml:6", "bad.yaml:9", "bad.yaml:10", "bad.yaml:11",
                     "workers", "localhost", "nowhere", "helo", "fastest", "weight", "idle")
    assert len(text.splitlines()) >= 8, text


@case
def check_says_nothing_bad_of_a_good_file_and_ends_with_0(stage):
    path = stage.write("good.yaml", to_yaml(good_config(stage)))
    done = run("hudsucker", "--check", path)
    assert done.returncode == 0, done.stdout + done.stderr


@case
def example_configurations_in_deploy_are_accepted(stage):
    deploy = pathlib.Path(__file__).resolve().parent.parent.parent / "deploy"
    found = 0
    for path in sorted(deploy.glob("*.yaml")) if deploy.exists() else []:
        program = "hud-agentd" if "agent" in path.name else "hudsucker"
        done = run(program, "--check", path)
        # A key or a user that is not on this machine is no fault of the example, and who listens there is only noted.
        text = done.stdout + done.stderr
        others = [line for line in text.splitlines() if line and not line.startswith(("note: ", "warning: ")) and "key" not in line and "user" not in line]
        assert done.returncode == 0 or (others == [] and text), f"{path.name}: {text}"
        found += 1
    if not found:
        raise Skip("no example configurations beside these tests")


@case
def each_kind_of_bad_file_gets_its_message(stage):
    for name, text, words in [
        ("no YAML at all", "listeners: [\n", ["bad.yaml:"]),
        ("a tab", "listeners:\n\t- name: x\n", ["bad.yaml:2"]),
        ("a list instead of a map", "- 1\n- 2\n", ["bad.yaml"]),
        ("an empty file", "", ["bad.yaml"]),
        ("zero bytes", "\0\0\0\0", ["bad.yaml"]),
        ("the same key twice", "workers: 1\nworkers: 2\n", ["workers"]),
    ]:
        path = stage.write("bad.yaml", text)
        for program in ("hudsucker", "hud-agentd"):
            complains(run(program, "--config", path), *words)
    complains(run("hudsucker", "--config", stage.path("not-there.yaml")), "not-there.yaml")
    complains(run("hud-agentd", "--config", stage.path("not-there.yaml")), "not-there.yaml")
    complains(run("hudsucker", "--config", stage.folder), str(stage.folder.name))


@case
def unknown_options_and_missing_ones_are_named(stage):
    complains(run("hudsucker", "--confog", "x"), "--confog")
    complains(run("hud-agentd", "--confog", "x"), "--confog")
    complains(run("hudsucker"), "--config")
    complains(run("hudsucker", "--listen", "127.0.0.1:1"), "--node")
    complains(run("hudsucker", "--listen", "localhost:1", "--node", "127.0.0.1:2"), "localhost")
    complains(run("hud-agentd", "keygen"), "name")
    complains(run("hud-agentd", "keygen", "two words", *SCOPE, cwd=stage.folder), "two words")
    complains(run("hud-agentd", "keygen", "n1", cwd=stage.folder), "hud-agentd keygen n1 --pools web --addresses 10.0.0.11")
    complains(run("hud-agentd", "keygen", "n1", "--pools", "web", cwd=stage.folder), "--addresses")
    assert not stage.path("n1.key").exists()


def agent_config(stage, key, **more):
    return {"node": {"name": "n1", "address": "127.0.0.1:9", "pool": "web"}, "key": str(key), "proxies": [stage.address(socket.SOCK_DGRAM)], **more}


@case
def both_programs_answer_the_same_options_in_the_same_way(stage):
    key, _ = make_key(stage, "n1")
    good = {"hudsucker": stage.write("good.yaml", to_yaml(good_config(stage))), "hud-agentd": stage.write("a.yaml", to_yaml(agent_config(stage, key)))}
    bad = stage.write("bad.yaml", "log: {level: loud}\n")
    for program in ("hudsucker", "hud-agentd"):
        assert run(program, "--version").stdout.split()[0] == program
        text = run(program, "--help").stdout
        for words in ("--config FILE", "--check FILE", "--version", "Signals:", "Ends with 0 when all is well, 1 when", "2 with the options"):
            assert words in text, (program, words)
        done = run(program, "--check", good[program])
        assert (done.returncode, done.stdout) == (0, "ok\n"), (program, done)
        for arguments, words in (((), "nothing to do"), (("--confog", "x"), "did you mean --config?"), (("-c", "x"), "write --config FILE"),
                                 (("x.yaml",), "write --config x.yaml"), (("--config",), "--config"),
                                 (("--config", "x", "--check", "y"), "--check")):
            done = run(program, *arguments)
            assert done.returncode == 2 and done.stderr.startswith(f"{program}: ") and words in done.stderr, (program, arguments, done)
        # What --check says goes into an editor as it stands; of a start each line says whose it is.
        done = run(program, "--check", bad)
        assert done.returncode == 1 and all(line.startswith(f"{bad}:") for line in done.stderr.splitlines()), (program, done)
        done = run(program, "--config", bad)
        assert done.returncode == 1 and all(line.startswith(f"{program}: {bad}:") for line in done.stderr.splitlines()), (program, done)


@case
def the_agents_log_has_the_proxys_levels_and_formats(stage):
    key, _ = make_key(stage, "n1")
    def lines(name, enough, **log):
        agent = Process(stage, name, [PROGRAMS / "hud-agentd", "--config", stage.write(f"{name}.yaml", to_yaml(agent_config(stage, key, log=log)))])
        wait_until(lambda: enough in agent.log(), f"{name}: {enough}")
        agent.signal(signal.SIGTERM)
        assert agent.popen.wait(10) == 0
        return agent.log().splitlines()
    seen = [json.loads(line) for line in lines("json", "not ready", format="json")]
    assert {line["level"] for line in seen} == {"info", "warning"}, seen
    assert [line["node"] for line in seen if line["msg"].startswith("not ready")] == ["n1"], seen
    assert all(line["ts"].endswith("Z") for line in seen)
    assert seen[0]["msg"] == "starting" and seen[0]["version"]
    for line in lines("logfmt", "not ready"):
        assert re.match(r'ts=[0-9T:.-]+Z level=(info|warning) msg="?[^"]', line), line
    quiet = lines("quiet", "not ready", level="warning")
    assert all(" level=warning " in line for line in quiet), quiet


@case
def what_is_wrong_with_a_pem_file_is_said_with_the_places_that_name_it_and_are_it(stage):
    key, _ = make_key(stage, "n1")
    certificate, certificate_key = stage.certificate()
    text = pathlib.Path(certificate).read_text()
    good, good_key = stage.write("good.pem", text), pathlib.Path(certificate_key)
    encrypted, other = stage.path("encrypted.pem"), stage.path("other.pem")
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", other], check=True)
    subprocess.run(["openssl", "pkey", "-in", other, "-aes256", "-passout", "pass:x", "-out", encrypted], check=True)
    cut = stage.write("cut.pem", "\n".join(text.splitlines()[:3]))
    rows = [({"client_certificate": stage.path("none.pem")}, "none.pem: cannot be opened: No such file"),
            ({"client_certificate": stage.write("empty.pem", "")}, "empty.pem: is empty"),
            ({"client_certificate": cut}, "cut.pem: line 1: this block has no end"),
            ({"client_certificate": good}, "client_key: " + str(good) + ": line 1: has a block of another kind (CERTIFICATE)"),
            ({"client_certificate": good, "client_key": encrypted}, "encrypted.pem: line 1: the key is encrypted"),
            ({"client_certificate": good, "client_key": other}, "other.pem: is not the key of the certificate"),
            ({"client_certificate": good, "client_key": good_key}, None)]
    for probe, words in rows:
        config = agent_config(stage, key, probe={name: str(value) for name, value in probe.items()})
        path = stage.write("a.yaml", to_yaml(config))
        done = run("hud-agentd", "--check", path)
        assert (done.returncode == 0) == (words is None), (words, done)
        if words:
            assert re.match(re.escape(str(path)) + r":\d+: probe\.client_", done.stderr) and words in done.stderr, (words, done)
            started = run("hud-agentd", "--config", path)
            assert started.returncode == 1 and f"hud-agentd: {path}:" in started.stderr and words in started.stderr, (words, started)


@case
def a_second_instance_on_the_same_address_is_an_error_that_names_it(stage):
    node = ScriptedNode(stage, answer_name)
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}])
    complains(run("hudsucker", "--config", hudsucker.config_path), hudsucker.address)
    complains(run("hudsucker", "--listen", hudsucker.address, "--node", node.address), hudsucker.address)
    with connect(hudsucker.address) as client:
        client.sendall(b"still there?")
        assert read_to_end(client) == b"scripted"


@case
def an_address_that_is_not_ours_is_an_error_that_names_it(stage):
    complains(run("hudsucker", "--listen", "192.0.2.1:4433", "--node", "127.0.0.1:9"), "192.0.2.1:4433")


@case
def key_files_that_others_can_read_are_refused(stage):
    key = random_key()
    config = good_config(stage)
    keys = stage.write("open.keys", key_line("n1", key), 0o644)
    config["beacons"] = {"bind": stage.address(socket.SOCK_DGRAM), "keys": str(keys)}
    complains(run("hudsucker", "--config", stage.write("c.yaml", to_yaml(config))), "open.keys", "chmod")
    path, _ = make_key(stage, "n1")
    os.chmod(path, 0o640 | 0o004)
    agent = {"node": {"name": "n1", "address": "127.0.0.1:9", "pool": "web"}, "proxies": ["127.0.0.1:9"], "key": str(path),
             "probe": {"address": "127.0.0.1:9"}}
    complains(run("hud-agentd", "--config", stage.write("a.yaml", to_yaml(agent))), "n1.key", "chmod")


@case
def each_bad_line_of_a_keys_file_is_named(stage):
    config = good_config(stage)
    good = key_line("n1", random_key())
    for name, line, words in [
        ("no key", "node=n2 pools=web addresses=*", ["key"]),
        ("a short key", "node=n2 key=abcd pools=web addresses=*", ["key"]),
        ("not hex", f"node=n2 key={'x' * 64} pools=web addresses=*", ["key"]),
        ("an unknown field", key_line("n2", random_key()).strip() + " colour=red", ["word 5"]),
        ("a bad range", key_line("n2", random_key(), addresses="10.0.0.0/99").strip(), ["address 1 of addresses="]),
        ("the same line twice", good.strip(), ["the same key as in line 2"]),
    ]:
        keys = stage.write("some.keys", "# a comment\n" + good + line + "\n", 0o600)
        config["beacons"] = {"bind": stage.address(socket.SOCK_DGRAM), "keys": str(keys)}
        complains(run("hudsucker", "--config", stage.write("c.yaml", to_yaml(config))), "some.keys:3", *words)


@case
def keygen_writes_a_private_key_once_and_prints_the_line_for_the_proxy(stage):
    done = run("hud-agentd", "keygen", "web-1", *SCOPE, cwd=stage.folder)
    assert done.returncode == 0, done.stderr
    path = stage.path("web-1.key")
    assert path.stat().st_mode & 0o777 == 0o600, oct(path.stat().st_mode)
    assert "node=web-1 key=" in done.stdout and "pools=web addresses=10.0.0.11" in done.stdout, done.stdout
    text = path.read_text()
    complains(run("hud-agentd", "keygen", "web-1", *SCOPE, cwd=stage.folder), "web-1.key")
    assert path.read_text() == text, "the key was overwritten"
    with open("/dev/full", "w") as full:
        lost = subprocess.run([PROGRAMS / "hud-agentd", "keygen", "web-2", *SCOPE], cwd=stage.folder, stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=60)
    assert lost.returncode == 1 and "could not be written" in lost.stderr, lost


@case
def started_without_standard_descriptors_no_socket_takes_their_place(stage):
    programs = [["hudsucker", "--config", stage.write("c.yaml", to_yaml(good_config(stage)))]]
    make_key(stage, "n1")
    agent = {"node": {"name": "n1", "address": "127.0.0.1:9", "pool": "web"}, "key": str(stage.path("n1.key")),
             "proxies": [stage.address(socket.SOCK_DGRAM)]}
    programs.append(["hud-agentd", "--config", stage.write("a.yaml", to_yaml(agent))])
    for name, *arguments in programs:
        program = Process(stage, name, ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", PROGRAMS / name, *arguments], fatal=True)
        descriptors = pathlib.Path("/proc", str(program.pid), "fd")

        def what(fd):
            try:
                return os.readlink(descriptors / fd)
            except OSError:  # the shell, or the program at its start
                return ""
        wait_until(lambda: any(what(fd).startswith("anon_inode:") for fd in os.listdir(descriptors)), "its signals")
        assert [what(fd) for fd in "012"] == ["/dev/null"] * 3, [what(fd) for fd in "012"]


@case
def without_keys_no_beacon_is_taken_and_the_log_says_so(stage):
    node = ScriptedNode(stage, answer_name)
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}])
    assert "beacon" in hudsucker.log(), hudsucker.log()


@case
def status_metrics_and_the_page_answer(stage):
    node = ScriptedNode(stage, answer_name, name="n1")
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}])
    with connect(hudsucker.address) as client:
        client.sendall(b"x")
        read_to_end(client)
    status = hudsucker.status()
    row = status["pools"][0]["nodes"][0]
    for key in ("name", "address", "state", "active", "total", "offered", "resumed"):
        assert key in row, f"pools[].nodes[] lacks {key}"
    for key in ("affinity", "beacons", "closes", "workers"):
        assert key in status, f"/status lacks {key}"
    wait_until(lambda: hudsucker.node("n1")["total"] == 1, "one connection being counted")
    metrics = hudsucker.metrics()
    assert "# TYPE" in metrics and 'node="n1"' in metrics, metrics[:500]
    code, page = http_get(hudsucker.status_address, "/")
    assert code == 200 and "<html" in page.lower()
    assert http_get(hudsucker.status_address, "/nothing")[0] == 404


@case
def bad_feed_lines_are_said_once_and_the_good_ones_beside_them_are_applied(stage):
    key_path, line = make_key(stage, "n1")
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[line])
    node = Nginx(stage, "n1")
    feed, syslog = stage.path("tokens.feed"), stage.path("syslog.feed")
    agent = Agent(stage, "n1", node.address, [hudsucker.beacon_address], key_path, feeds={"tokens": str(feed), "syslog": str(syslog)})
    hudsucker.wait_states({"n1": "up"})
    for path, lines in [(feed, [b"add zz", b"add", b"explode 00112233", b"\xff" * 2000, b"", b"add " + b"00" * 33, b"add 0011223344556677 9y",
                                b"add 0011223344556677 1h\nadd 1011223344556677"]),
                        (syslog, [b"<190>nginx: nothing here", b"<190>nginx: hud_session=xyz", b"\0" * 100, b"<190>nginx: hud_session=-",
                                  b"<190>Nov 21 06:00:00 nginx: hud_session=" + b"ab" * 32])]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as application:
            application.connect(str(path))
            for text in lines:
                application.send(text)
    wait_until(lambda: hudsucker.status()["affinity"]["size"] == 3, "the three good ones being known")
    time.sleep(0.3)
    assert agent.alive()
    log = agent.log()
    assert "tokens.feed" in log and "syslog.feed" in log, log[-1500:]
    assert len(log) < 20000, "the log was flooded"


if __name__ == "__main__":
    main()
