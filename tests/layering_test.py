#!/usr/bin/env python3
"""Who may include whom. The rooms are the architecture (ARCHITECTURE.md); this test keeps them so.

A room is a folder with sources in it. MAY_INCLUDE is the whole matrix: what a room includes of the house is in its row, and the
rows have no circle. The table of ARCHITECTURE.md says the same of the houses (core, ring, …), which docs_test.py compares.
Run without arguments: checks the repository it lies in, then checks itself on sources that break each rule.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# A room's row is what it includes, and no more: a row that is longer than that is a fault, too.
MAY_INCLUDE = {
    # Pure logic. A protocol's room sees no other protocol's.
    "core/base": set(),
    "core/net": {"core/base"},
    "core/tls": {"core/base"},
    "core/policy": {"core/base"},
    "core/config": {"core/base", "core/net"},
    "core/admission": {"core/base", "core/net"},
    "core/affinity": {"core/base", "core/tls"},
    "core/routing": {"core/affinity", "core/base", "core/config", "core/net", "core/tls"},
    "core/beacon": {"core/affinity", "core/base", "core/net"},
    "core/cluster": {"core/base", "core/beacon", "core/config", "core/routing"},
    "core/report": {"core/base", "core/net", "core/routing", "core/tls"},
    # What asks the system, and what reads files.
    "core/os": {"core/base"},
    "core/yaml": {"core/base", "core/net", "core/os"},
    # The data plane: no beacon and no cluster. What a connection goes through are rooms that see loop and relay, and not each other;
    # only ring itself, the worker, sees them all.
    "ring/io": {"core/base", "core/net", "core/os", "core/policy"},
    "ring/loop": {"core/base", "core/os", "core/policy", "core/report", "ring/io"},
    "ring/relay": {"core/base", "core/config", "core/net", "core/policy", "core/report", "ring/io", "ring/loop"},
    "ring/pass_through": {"core/admission", "core/affinity", "core/base", "core/net", "core/policy", "core/report", "core/routing",
                          "core/tls", "ring/loop", "ring/relay"},
    "ring": {"core/admission", "core/base", "core/config", "core/os", "core/policy", "core/report", "ring/io", "ring/loop",
             "ring/pass_through"},
    # The process around it.
    "control/process": {"core/base", "core/os", "core/report"},
    "control/log": {"core/base", "core/os", "core/report"},
    "control/nodes": {"control/process", "core/affinity", "core/base", "core/beacon", "core/cluster", "core/net", "core/os"},
    "control/status": {"control/process", "core/admission", "core/affinity", "core/base", "core/beacon", "core/cluster", "core/net",
                       "core/os", "core/report", "core/routing"},
    "control/config": {"control/process", "core/beacon", "core/config", "core/net", "core/os", "core/policy", "core/routing",
                       "core/yaml", "ring"},
    "control": {"control/config", "control/log", "control/nodes", "control/process", "control/status", "core/base", "core/os",
                "core/policy", "ring"},
    # The agent on a node.
    "agentd": {"core/affinity", "core/base", "core/beacon", "core/net", "core/os", "core/yaml"},
}
HOUSES = ("core", "ring", "control", "agentd", "tests", "perf")
ALL = {"tests", "perf"}  # may include everything

# A header (or a family of them) and the only folders, or files, that may include it.
ONLY_IN = [
    (r"liburing(\.h|/)", {"ring/io", "tests"}, "io_uring is ring/io's alone"),
    (r"linux/io_uring\.h", {"ring/io", "tests"}, "io_uring is ring/io's alone"),
    (r"openssl/(ssl|bio|x509|x509v3|ssl3|tls1)\.h", {"agentd", "tests", "perf", "control/nodes/tls_handshake.cc"},
     "libssl is for agentd's probes and the handshakes of control's checks; the proxy never decrypts"),
    (r"simdjson", {"control", "tests", "perf"}, "JSON is parsed in control"),
    (r"yaml-cpp/", {"core/yaml"}, "YAML is read in core/yaml"),
    (r"absl/log/", set(), "Debian's Abseil has no usable absl/log; core/os/log.h, HUD_CHECK for bugs"),
    (r"spdlog/", {"core/os", "tests", "perf"}, "there is one logger, core/os/log.h"),
    (r"CLI/", {"control", "agentd", "tests", "perf"}, "options belong to the programs"),
]

# core/ is pure but for core/os and core/yaml: no system calls, clocks, threads or logging. What it may take from the system is named
# here, file by file.
CORE_FORBIDDEN = re.compile(
    r"^(unistd\.h|fcntl\.h|poll\.h|signal\.h|csignal|time\.h|ctime|pthread\.h|thread|mutex|shared_mutex|condition_variable"
    r"|future|semaphore|latch|barrier|stop_token|fstream|iostream|cstdio|stdio\.h|filesystem|netdb\.h|dirent\.h"
    r"|sys/.*|linux/.*|net/.*|absl/synchronization/.*|absl/time/.*|spdlog/.*)$")
NOT_PURE = {"core/os", "core/yaml"}
CORE_ALLOWED = {
    "core/base/check.h": {"cstdio"},                     # says what failed, then aborts
    "core/base/check.cc": {"cstdio"},
    "core/net/address.h": {"sys/socket.h", "sys/un.h"},  # the types of addresses; no call is made
    "core/net/address.cc": {"sys/socket.h", "sys/un.h"},
    "core/affinity/affinity_map.cc": {"sys/mman.h"},     # madvise for huge pages, once, in the constructor
}

# The data plane reaches the kernel through ring/io alone, so that a simulated one can take its place. poll.h is for its constants.
RING_FORBIDDEN = re.compile(r"^(unistd\.h|fcntl\.h|signal\.h|csignal|time\.h|pthread\.h|sched\.h|thread|netdb\.h|netinet/.*|sys/.*|linux/.*)$")
RING_ALLOWED = {
    "ring/data_plane.cc": {"pthread.h", "sched.h", "signal.h", "sys/eventfd.h", "thread", "unistd.h"},  # the workers' threads
    "ring/listening_socket.cc": {"linux/filter.h", "netinet/in.h", "netinet/tcp.h", "sys/socket.h", "sys/stat.h", "sys/un.h", "thread", "unistd.h"},  # at the start
    "ring/pass_through/places.h": {"sys/socket.h", "unistd.h"},  # one worker wakes another
}

THIRD_PARTY = re.compile(r"(absl|benchmark|boost|CLI|gmock|gtest|nlohmann|openssl|prometheus|spdlog|systemd|yaml-cpp)/"
                         r"|simdjson\.h|liburing\.h")
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def room_of(path):
    """The room that a path from the root belongs to, or None."""
    house = path.split("/")[0]
    if "/" not in path or house not in HOUSES:
        return None
    return house if house in ALL else path.rsplit("/", 1)[0]


def house_of(room):
    """As ARCHITECTURE.md's table has them: core/os and core/yaml are houses of their own."""
    return room if room in NOT_PURE else room.split("/")[0]


def is_in(path, places):
    """Is it one of these files, or below one of these folders?"""
    return any(path == place or path.startswith(place + "/") for place in places)


def forbidden_system_header(path, room, header):
    if room.startswith("core/") and room not in NOT_PURE and CORE_FORBIDDEN.match(header):
        return None if header in CORE_ALLOWED.get(path, set()) else "core/ is pure"
    if room.split("/")[0] == "ring" and room != "ring/io" and RING_FORBIDDEN.match(header):
        return None if header in RING_ALLOWED.get(path, set()) else "the data plane reaches the kernel through ring/io"
    return None


def faults_in(path, text, arrows=None):
    """Every broken rule of one file, as sentences with file and line. Adds (room, room) of what it includes to `arrows`."""
    room = room_of(path)
    if room not in MAY_INCLUDE and room not in ALL:
        yield f"{path}: {room} is no room of the matrix"
        return
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quoted, header = match.group(1) == '"', match.group(2)
        where = f"{path}:{number}"
        target = room_of(header)
        if quoted and target is None and not THIRD_PARTY.match(header):
            yield f'{where}: "{header}" is not written from the root of the repository'
        elif target and target != room and room not in ALL:
            if target not in MAY_INCLUDE[room]:
                yield f"{where}: {room} may not include {target} ({header})"
            elif arrows is not None:
                arrows.add((room, target))
        for pattern, places, reason in ONLY_IN:
            if re.match(pattern, header) and not is_in(path, places):
                yield f"{where}: {header}: {reason}"
        reason = None if quoted else forbidden_system_header(path, room, header)
        if reason:
            yield f"{where}: {reason} and may not include <{header}>" if reason.startswith("core") else f"{where}: <{header}>: {reason}"


def faults_of(matrix):
    """Circles: a room that can be reached from itself."""
    def reached(room, seen):
        for target in matrix.get(room, ()):
            if target not in seen:
                seen.add(target)
                reached(target, seen)
        return seen
    for room, row in matrix.items():
        for target in sorted(row - set(matrix)):
            yield f"{room}: its row names {target}, which is no room"
        if room in reached(room, set()):
            yield f"{room} is in a circle"


def sources():
    for house in HOUSES:
        for path in sorted((ROOT / house).rglob("*")):
            if path.suffix in (".h", ".cc"):
                yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


# The test's own test: a source that breaks a rule, and words that must be in the complaint (None: no complaint).
SELF_TEST = [
    ("core includes ring", "core/base/a.cc", '#include "ring/worker.h"', "core/base may not include ring"),
    ("core includes control", "core/net/a.h", '#include "control/status/status_server.h"', "core/net may not include control/status"),
    ("upwards within core", "core/tls/a.h", '#include "core/routing/choice.h"', "core/tls may not include core/routing"),
    ("one protocol's room sees another's", "core/tls/a.h", '#include "core/beacon/beacon.h"', "core/tls may not include core/beacon"),
    ("a floor upwards", "core/affinity/a.h", '#include "core/cluster/cluster.h"', "core/affinity may not include core/cluster"),
    ("ring includes a beacon", "ring/a.cc", '#include "core/beacon/beacon.h"', "ring may not include core/beacon"),
    ("ring includes the cluster", "ring/a.cc", '#include "core/cluster/cluster.h"', "ring may not include core/cluster"),
    ("ring includes control", "ring/a.cc", '#include "core/yaml/yaml_reader.h"', "ring may not include core/yaml"),
    ("the waist includes the worker", "ring/io/a.h", '#include "ring/worker.h"', "ring/io may not include ring"),
    ("the waist includes the loop", "ring/io/a.h", '#include "ring/loop/ring_loop.h"', "ring/io may not include ring/loop"),
    ("agentd includes ring", "agentd/a.cc", '#include "ring/data_plane.h"', "agentd may not include ring"),
    ("agentd includes control", "agentd/a.cc", '#include "control/status/gzip.h"', "agentd may not include control/status"),
    ("agentd includes routing", "agentd/a.cc", '#include "core/routing/choice.h"', "agentd may not include core/routing"),
    ("agentd may read YAML", "agentd/a.cc", '#include "core/yaml/yaml_reader.h"', None),
    ("core/yaml includes control", "core/yaml/a.cc", '#include "control/status/gzip.h"', "may not include control/status"),
    ("the status page includes checks", "control/status/a.cc", '#include "control/nodes/health_checker.h"', "may not include control/nodes"),
    ("control may include ring", "control/a.cc", '#include "ring/data_plane.h"', None),
    ("a room that nobody knows", "control/attic/a.cc", "", "control/attic is no room"),
    ("control includes liburing", "control/a.cc", "#include <liburing.h>", "io_uring is ring/io's alone"),
    ("the worker includes liburing", "ring/a.cc", "#include <liburing.h>", "io_uring is ring/io's alone"),
    ("the loop knows a protocol", "ring/loop/a.h", '#include "core/tls/client_hello.h"', "ring/loop may not include core/tls"),
    ("the relay knows who uses it", "ring/relay/a.h", '#include "ring/pass_through/connection.h"', "ring/relay may not include ring/pass_through"),
    ("the relay makes a system call", "ring/relay/a.cc", "#include <sys/socket.h>", "through ring/io"),
    ("the worker makes a system call", "ring/a.cc", "#include <sys/socket.h>", "through ring/io"),
    ("the worker asks a clock", "ring/a.cc", "#include <time.h>", "through ring/io"),
    ("the waist makes system calls", "ring/io/a.cc", "#include <sys/socket.h>", None),
    ("control includes libssl", "control/a.cc", "#include <openssl/ssl.h>", "never decrypts"),
    ("control's checks shake hands", "control/nodes/tls_handshake.cc", "#include <openssl/ssl.h>", None),
    ("core may use HMAC", "core/beacon/a.cc", "#include <openssl/hmac.h>", None),
    ("agentd parses JSON", "agentd/a.cc", "#include <simdjson.h>", "JSON is parsed in control"),
    ("core starts a thread", "core/base/a.cc", "#include <thread>", "core/ is pure"),
    ("core reads a file", "core/base/a.cc", "#include <fstream>", "core/ is pure"),
    ("core makes a system call", "core/base/a.cc", "# include <sys/socket.h>", "core/ is pure"),
    ("the owner of a descriptor may close it", "core/os/fd.h", "#include <unistd.h>", None),
    ("core/os includes control", "core/os/a.cc", '#include "control/status/gzip.h"', "core/os may not include control/status"),
    ("agentd gives up rights", "agentd/a.cc", '#include "core/os/privileges.h"', None),
    ("core gives up rights", "core/base/a.cc", '#include "core/os/privileges.h"', "core/base may not include core/os"),
    ("ring logs", "ring/a.cc", "#include <spdlog/spdlog.h>", "there is one logger"),
    ("agentd has a logger of its own", "agentd/a.cc", "#include <spdlog/spdlog.h>", "there is one logger"),
    ("agentd logs", "agentd/a.cc", '#include "core/os/log.h"', None),
    ("a path that is not from the root", "core/base/a.cc", '#include "types.h"', "not written from the root"),
]
CIRCLES = [
    ("two rooms that include each other", {"a": {"b"}, "b": {"a"}}, "a is in a circle"),
    ("three of them", {"a": {"b"}, "b": {"c"}, "c": {"a"}}, "c is in a circle"),
    ("a row with a room that is none", {"a": {"x"}}, "its row names x"),
    ("a tree", {"a": {"b", "c"}, "b": {"c"}, "c": set()}, None),
]


def own_test():
    failed = 0
    cases = [(name, list(faults_in(path, text)), words) for name, path, text, words in SELF_TEST]
    cases += [(name, list(faults_of(matrix)), words) for name, matrix, words in CIRCLES]
    for name, faults, words in cases:
        if (words is None and faults) or (words is not None and not any(words in fault for fault in faults)):
            print(f"layering_test: its own test failed: {name}: {faults}")
            failed += 1
    return failed


def main():
    failed = own_test()
    faults, arrows, count = list(faults_of(MAY_INCLUDE)), set(), 0
    for path, text in sources():
        count += 1
        faults += faults_in(path, text, arrows)
    faults += [f"{room}: its row has {target}, which it does not include" for room, row in MAY_INCLUDE.items()
               for target in sorted(row) if (room, target) not in arrows]
    for fault in faults:
        print(fault)
    failed += len(faults)
    if count < 10:
        print(f"layering_test: only {count} sources found under {ROOT}")
        failed += 1
    in_core = sum(room.startswith("core/") and room not in NOT_PURE for room, _ in arrows)
    print(f"layering_test: {count} sources in {len(MAY_INCLUDE)} rooms, {len(arrows)} arrows between rooms, {in_core} of them in core's pure "
          f"ones; {failed} faults")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
