#!/usr/bin/env python3
"""A client that can resume is sent to a node that can resume it: real nginx nodes, real agents, real TLS clients."""
import signal
import time

from harness import Agent, Hudsucker, make_key, random_bytes, reduced, tls_client, wait_until
from runner import case, main
from scene import EXACT_MODES, MODES, Scene
from servers.nginx import Nginx


def assert_resumed(counted, at_least=0.99, offered=1):
    assert counted["errors"] == 0, counted["error_texts"]
    assert counted["offered"] >= offered, f"only {counted['offered']} were offered: {counted}"
    assert counted["resumed"] >= at_least * counted["offered"], f"{counted['resumed']} of {counted['offered']} resumed: {counted}"


def assert_agree(scene, before, counted):
    after = scene.counted()
    seen = (after[0] - before[0], after[1] - before[1])
    assert seen == (counted["offered"], counted["resumed"]), f"/status says {seen}, the clients say {counted}"


def resumes(stage, mode, count):
    scene = Scene.of_mode(stage, mode, count)
    before = scene.counted()
    counted = scene.clients(mode, clients=reduced(100, 20) * count, rounds=2)
    assert_resumed(counted, offered=reduced(300, 60))
    assert_agree(scene, before, counted)
    share = counted["full"] / count
    least = min(counted["nodes"].get(n, {"full": 0})["full"] for n in scene.names)
    assert least >= share / 2, f"new sessions are not spread: {counted['nodes']}"
    stage.note(f"{counted['resumed']} of {counted['offered']} resumed; the node with the fewest new sessions got {least} of {share:.0f}")


@case
def tls12_tickets_are_resumed_with_3_nodes(stage):
    resumes(stage, "tls12-ticket", 3)


@case
def tls12_tickets_are_resumed_with_8_nodes(stage):
    resumes(stage, "tls12-ticket", 8)


@case
def tls12_session_ids_are_resumed_with_3_nodes(stage):
    resumes(stage, "tls12-id", 3)


@case
def tls12_session_ids_are_resumed_with_8_nodes(stage):
    resumes(stage, "tls12-id", 8)


@case
def tls13_tickets_are_resumed_with_3_nodes(stage):
    resumes(stage, "tls13-ticket", 3)


@case
def tls13_tickets_are_resumed_with_8_nodes(stage):
    resumes(stage, "tls13-ticket", 8)


@case
def stateful_tls13_is_resumed_with_3_nodes(stage):
    resumes(stage, "tls13-stateful", 3)


@case
def stateful_tls13_is_resumed_with_8_nodes(stage):
    resumes(stage, "tls13-stateful", 8)


@case
def clients_without_tickets_count_as_offering_where_no_feed_tells_their_owner(stage):
    scene = Scene(stage, 3, protocols="TLSv1.2")  # with tickets and a session cache
    before = scene.counted()
    counted = scene.clients("tls12-id", clients=60, rounds=2)
    assert counted["errors"] == 0 and counted["offered"] >= 60, counted
    assert 0 < counted["resumed"] < 0.8 * counted["offered"], f"only chance leads them back: {counted}"
    assert_agree(scene, before, counted)
    pool = scene.proxy.pool("web")
    assert (pool["offered"], pool["resumed"]) == scene.counted()
    text = scene.proxy.metrics()
    assert f'hudsucker_pool_offered_total{{pool="web"}} {pool["offered"]}' in text, text
    # The agent says so as well, and what to do.
    log = wait_until(lambda: "within http" in scene.agents["n1"].log() and scene.agents["n1"].log(), "the agent's advice")
    assert "clients without ticket support get session ids from a cache, so an exact feed is needed" in log, log


@case
def a_feed_beside_tickets_leads_clients_without_tickets_back(stage):
    # What the agent advises for nginx with both.
    scene = Scene(stage, 3, feed=True, http="map $ssl_protocol $hud_session { TLSv1.2 $ssl_session_id; }",
                  log_format="hud_session=$hud_session")
    before = scene.counted()
    counted = scene.clients("tls12-id", clients=60, rounds=2)
    assert_resumed(counted, offered=60)
    assert_agree(scene, before, counted)
    known = scene.proxy.status()["affinity"]["size"]
    assert known >= 60, f"{known} ids are known"
    assert_resumed(scene.clients("tls13-ticket", clients=30, rounds=2))
    assert scene.proxy.status()["affinity"]["size"] == known, "ids that nobody brings back came through the feed"
    log = scene.agents["n1"].log()
    assert "feed is needed" not in log and "which the configured feed has to bring" in log, log


@case
def a_tls13_resumption_behind_a_hello_retry_request_is_counted_as_one(stage):
    scene = Scene(stage, 3, protocols="TLSv1.3", more="ssl_ecdh_curve secp384r1;")
    before = scene.counted()
    counted = scene.clients("tls13-ticket", clients=30, rounds=3, extra=["--groups", "X25519:P-384"])
    assert_resumed(counted)
    assert_agree(scene, before, counted)


@case
def a_node_that_dies_costs_its_clients_a_full_handshake_and_nothing_else(stage):
    scene = Scene.of_mode(stage, "tls13-ticket", 3)
    assert_resumed(scene.clients("tls13-ticket", clients=30, rounds=1))
    scene.nodes["n1"].kill()
    scene.agents["n1"].kill()
    counted = scene.clients("tls13-ticket", clients=60, rounds=3, threads=2)
    assert counted["errors"] == 0, counted["error_texts"]
    assert "n1" not in counted["nodes"], counted["nodes"]
    assert_resumed(counted)


@case
def a_node_restarted_with_new_keys_is_learned_anew_within_seconds(stage):
    scene = Scene.of_mode(stage, "tls13-ticket", 2)
    scene.nodes["n1"].signal(signal.SIGHUP)  # nginx draws new ticket keys
    def learned():
        return scene.clients("tls13-ticket", clients=20, rounds=1)["resumed"] == 20
    wait_until(learned, "every client resumed after nginx has drawn new keys", every=0.3)


@case
def a_proxy_killed_and_started_again_resumes_within_seconds(stage):
    scene = Scene.of_mode(stage, "tls12-id", 3)
    # The clients of the second run have no sessions of the first: the ids that are known again are asked of /status.
    counted = scene.clients("tls12-id", clients=50, rounds=1)
    assert_resumed(counted)
    known = scene.proxy.status()["affinity"]["size"]
    assert known >= 50, f"only {known} ids are known"
    scene.proxy.kill()
    scene.proxy = scene.proxy.again()
    scene.wait_up()
    wait_until(lambda: scene.proxy.status()["affinity"]["size"] >= known, f"{known} ids being known again")
    assert_resumed(scene.clients("tls12-id", clients=50, rounds=2))


@case
def an_agent_restarted_keeps_its_nodes_clients(stage):
    scene = Scene.of_mode(stage, "tls13-ticket", 2)
    for agent in list(scene.agents.values()):
        agent.kill()
    for n in scene.names:
        Agent(stage, n, scene.nodes[n].address, [scene.proxy.beacon_address], scene.keys[n][0], name=f"agent-{n}-again")
    counted = scene.clients("tls13-ticket", clients=20, rounds=3)
    assert_resumed(counted)
    scene.wait_up()
    wait_until(lambda: scene.clients("tls13-ticket", clients=20, rounds=1)["resumed"] == 20, "resumption after the restart")


@case
def two_nodes_that_share_a_ticket_key_file_both_resume_its_tickets(stage):
    # Their lines say that they share it.
    shared, own = stage.write("shared.key", random_bytes(80), 0o600), stage.write("own.key", random_bytes(80), 0o600)
    names = ["n1", "n2", "n3"]
    keys = {n: make_key(stage, n, options=[] if n == "n3" else ["--tickets", "shared"]) for n in names}
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[line for _, line in keys.values()])
    for n in names:
        node = Nginx(stage, n, ticket_keys=[own if n == "n3" else shared])
        Agent(stage, n, node.address, [hudsucker.beacon_address], keys[n][0], ticket_key_files=[str(own if n == "n3" else shared)])
    hudsucker.wait_states({n: "up" for n in names})
    counted = tls_client(hudsucker.address, "tls13-ticket", clients=60, rounds=4)
    assert_resumed(counted)
    came_back = {n: counted["nodes"][n]["offered"] for n in names}
    assert came_back["n1"] > 10 and came_back["n2"] > 10, f"one of the two owners was not used: {came_back}"


@case
def a_ticket_key_file_that_changes_is_seen_and_its_old_name_still_counts(stage):
    old, new = random_bytes(80), random_bytes(80)
    keys = {n: make_key(stage, n) for n in ("n1", "n2")}
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[line for _, line in keys.values()])
    file = stage.write("rotating.key", old, 0o600)
    node = Nginx(stage, "n1", ticket_keys=[file])
    # A probe so rare that only the file can tell.
    Agent(stage, "n1", node.address, [hudsucker.beacon_address], keys["n1"][0], ticket_key_files=[str(file)],
          probe={"every": "1h"})
    other = Nginx(stage, "n2")
    Agent(stage, "n2", other.address, [hudsucker.beacon_address], keys["n2"][0])
    hudsucker.wait_states({"n1": "up", "n2": "up"})
    assert_resumed(tls_client(hudsucker.address, "tls12-ticket", clients=20, rounds=2))
    stage.write("rotating.key", new, 0o600)
    node.signal(signal.SIGHUP)
    wait_until(lambda: tls_client(hudsucker.address, "tls12-ticket", clients=20, rounds=2)["resumed"] == 40,
               "resumption with the new key", every=0.3)


@case
def sni_pools_resume_only_among_their_own_members(stage):
    keys = {n: make_key(stage, n, pools=["*"]) for n in ("a1", "a2", "b1", "b2")}
    hudsucker = Hudsucker(stage, [{"name": "a"}, {"name": "b"}], keys=[line for _, line in keys.values()],
                          listeners=[{"name": "tls", "routes": [{"sni": ["a.example.com"], "pool": "a"},
                                                                {"sni": ["*.b.example.com"], "pool": "b"}]}])
    for n in keys:
        node = Nginx(stage, n)
        Agent(stage, n, node.address, [hudsucker.beacon_address], keys[n][0], pool=n[0])
    hudsucker.wait_states({n: "up" for n in keys})
    for sni, members in (("a.example.com", {"a1", "a2"}), ("x.b.example.com", {"b1", "b2"})):
        counted = tls_client(hudsucker.address, "tls13-ticket", clients=40, rounds=3, sni=sni)
        assert_resumed(counted)
        assert set(counted["nodes"]) == members, f"{sni}: {counted['nodes']}"
    refused = tls_client(hudsucker.address, "tls13-ticket", clients=1, rounds=0, sni="c.example.com")
    assert refused["errors"] == 1 and "unrecognized name" in str(refused["error_texts"]), refused


@case
def proxy_v2_nodes_behind_an_agent_that_speaks_it_resume(stage):
    names = ("n1", "n2")
    keys = {n: make_key(stage, n) for n in names}
    hudsucker = Hudsucker(stage, [{"name": "web", "proxy_protocol": "v2"}], keys=[line for _, line in keys.values()])
    for n in names:
        node = Nginx(stage, n, listen_options="proxy_protocol")
        Agent(stage, n, node.address, [hudsucker.beacon_address], keys[n][0], probe={"proxy_protocol": "v2"})
    hudsucker.wait_states({n: "up" for n in names})
    assert_resumed(tls_client(hudsucker.address, "tls12-ticket", clients=30, rounds=2))


@case
def the_log_says_of_every_connection_where_it_went_and_why_and_never_shows_a_token(stage):
    scene = Scene.of_mode(stage, "tls12-id", 2)
    counted = scene.clients("tls12-id", clients=10, rounds=2)
    assert_resumed(counted)
    def lines():
        return [line for line in scene.proxy.log().splitlines() if "www.example.com" in line]
    wait_until(lambda: len(lines()) >= counted["connections"], f"{counted['connections']} lines in the access log")
    assert any("n1" in line for line in lines()) and any("n2" in line for line in lines())


if __name__ == "__main__":
    main()
