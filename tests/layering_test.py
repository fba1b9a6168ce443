#!/usr/bin/env python3
"""Who may include whom. The folders are the architecture (ARCHITECTURE.md); this test keeps them so.

ring, core/os -> core; control -> ring, core/os, core; agentd -> core/os, core, core/yaml; tests, perf -> all; never the
other way.
Run without arguments: checks the repository it lies in, then checks itself on sources that break each rule.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# From the most specific folder to the least. core/yaml is its own small target.
MAY_INCLUDE = {
    "core": {"core"},
    "ring": {"core", "ring"},
    "core/os": {"core", "core/os"},
    "core/yaml": {"core", "core/yaml"},
    "control": {"core", "ring", "core/os", "control", "core/yaml"},
    "agentd": {"core", "core/os", "core/yaml", "agentd"},
    "tests": {"core", "ring", "core/os", "control", "core/yaml", "agentd", "tests", "perf"},
    "perf": {"core", "ring", "core/os", "control", "core/yaml", "agentd", "tests", "perf"},
}

# A header (or a family of them) and the only folders, or files, that may include it.
ONLY_IN = [
    (r"liburing(\.h|/)", {"ring"}, "io_uring is ring's alone"),
    (r"linux/io_uring\.h", {"ring"}, "io_uring is ring's alone"),
    (r"openssl/(ssl|bio|x509|x509v3|ssl3|tls1)\.h", {"agentd", "tests", "perf", "control/nodes/tls_handshake.cc"},
     "libssl is for agentd's probes and the handshakes of control's checks; the proxy never decrypts"),
    (r"simdjson", {"control", "tests", "perf"}, "JSON is parsed in control"),
    (r"yaml-cpp/", {"core/yaml"}, "YAML is read in core/yaml"),
    (r"absl/log/", set(), "Debian's Abseil has no usable absl/log; core/os/log.h, HUD_CHECK for bugs"),
    (r"spdlog/", {"core/os", "tests", "perf"}, "there is one logger, core/os/log.h"),
    (r"CLI/", {"control", "agentd", "tests", "perf"}, "options belong to the programs"),
]

# core/ is pure: no system calls, clocks, threads or logging. What it may take from the system is named here, file by file.
CORE_FORBIDDEN = re.compile(
    r"^(unistd\.h|fcntl\.h|poll\.h|signal\.h|csignal|time\.h|ctime|pthread\.h|thread|mutex|shared_mutex|condition_variable"
    r"|future|semaphore|latch|barrier|stop_token|fstream|iostream|cstdio|stdio\.h|filesystem|netdb\.h|dirent\.h"
    r"|sys/.*|linux/.*|net/.*|absl/synchronization/.*|absl/time/.*|spdlog/.*)$")
CORE_ALLOWED = {
    "core/os/fd.h": {"unistd.h"},                       # close: the one system call of core/
    "core/base/check.h": {"cstdio"},                      # says what failed, then aborts
    "core/base/check.cc": {"cstdio"},
    "core/net/address.h": {"sys/socket.h", "sys/un.h"},  # the types of addresses; no call is made
    "core/net/address.cc": {"sys/socket.h", "sys/un.h"},
    "core/affinity/affinity_map.cc": {"sys/mman.h"},          # madvise for huge pages, once, in the constructor
}

THIRD_PARTY = re.compile(r"(absl|benchmark|boost|CLI|gmock|gtest|nlohmann|openssl|prometheus|spdlog|systemd|yaml-cpp)/"
                         r"|simdjson\.h|liburing\.h")
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def folder_of(path):
    """The layer that a path from the root belongs to, or None."""
    for folder in sorted(MAY_INCLUDE, key=len, reverse=True):
        if path.startswith(folder + "/"):
            return folder
    return None


def faults_in(path, text):
    """Every broken rule of one file, as sentences with file and line."""
    folder = folder_of(path)
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quoted, header = match.group(1) == '"', match.group(2)
        where = f"{path}:{number}"
        target = folder_of(header)
        if quoted and target is None and not THIRD_PARTY.match(header):
            yield f'{where}: "{header}" is not written from the root of the repository'
        elif target and target not in MAY_INCLUDE[folder]:
            yield f"{where}: {folder} may not include {target} ({header})"
        for pattern, folders, reason in ONLY_IN:
            if re.match(pattern, header) and folder not in folders and path not in folders:
                yield f"{where}: {header}: {reason}"
        if folder == "core" and not quoted and CORE_FORBIDDEN.match(header):
            if header not in CORE_ALLOWED.get(path, set()):
                yield f"{where}: core/ is pure and may not include <{header}>"


def sources():
    for folder in sorted({name.split("/")[0] for name in MAY_INCLUDE}):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".h", ".cc"):
                yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


# The test's own test: a source that breaks a rule, and words that must be in the complaint (None: no complaint).
SELF_TEST = [
    ("core includes ring", "core/a.cc", '#include "ring/worker.h"', "core may not include ring"),
    ("core includes control", "core/a.h", '#include "control/status.h"', "core may not include control"),
    ("ring includes control", "ring/a.cc", '#include "core/yaml/reader.h"', "ring may not include core/yaml"),
    ("agentd includes ring", "agentd/a.cc", '#include "ring/data_plane.h"', "agentd may not include ring"),
    ("agentd includes control", "agentd/a.cc", '#include "control/status.h"', "agentd may not include control"),
    ("agentd may read YAML", "agentd/a.cc", '#include "core/yaml/reader.h"', None),
    ("core/yaml includes control", "core/yaml/a.cc", '#include "control/status.h"', "may not include control"),
    ("control may include ring", "control/a.cc", '#include "ring/data_plane.h"', None),
    ("control includes liburing", "control/a.cc", "#include <liburing.h>", "io_uring is ring's alone"),
    ("control includes libssl", "control/a.cc", "#include <openssl/ssl.h>", "never decrypts"),
    ("control's checks shake hands", "control/nodes/tls_handshake.cc", "#include <openssl/ssl.h>", None),
    ("core may use HMAC", "core/a.cc", "#include <openssl/hmac.h>", None),
    ("agentd parses JSON", "agentd/a.cc", "#include <simdjson.h>", "JSON is parsed in control"),
    ("core starts a thread", "core/a.cc", "#include <thread>", "core/ is pure"),
    ("core reads a file", "core/a.cc", "#include <fstream>", "core/ is pure"),
    ("core makes a system call", "core/a.cc", "# include <sys/socket.h>", "core/ is pure"),
    ("the owner of a descriptor may close it", "core/os/fd.h", "#include <unistd.h>", None),
    ("core/os includes control", "core/os/a.cc", '#include "control/status.h"', "core/os may not include control"),
    ("agentd gives up rights", "agentd/a.cc", '#include "core/os/privileges.h"', None),
    ("core gives up rights", "core/a.cc", '#include "core/os/privileges.h"', "core may not include core/os"),
    ("ring logs", "ring/a.cc", "#include <spdlog/spdlog.h>", "there is one logger"),
    ("agentd has a logger of its own", "agentd/a.cc", "#include <spdlog/spdlog.h>", "there is one logger"),
    ("agentd logs", "agentd/a.cc", '#include "core/os/log.h"', None),
    ("a path that is not from the root", "core/a.cc", '#include "types.h"', "not written from the root"),
]


def main():
    failed = 0
    for name, path, text, words in SELF_TEST:
        faults = list(faults_in(path, text))
        if (words is None and faults) or (words is not None and not any(words in fault for fault in faults)):
            print(f"layering_test: its own test failed: {name}: {faults}")
            failed += 1
    count = 0
    for path, text in sources():
        count += 1
        for fault in faults_in(path, text):
            print(fault)
            failed += 1
    if count < 10:
        print(f"layering_test: only {count} sources found under {ROOT}")
        failed += 1
    print(f"layering_test: {count} sources, {failed} faults")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
