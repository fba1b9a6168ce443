"""A run is alone on its machine, and nothing that it started outlives it."""
import contextlib
import ctypes
import fcntl
import os
import pathlib
import signal
import sys
import tempfile
import traceback

from . import machine

# What ends a run in order. Whoever starts it may have one of them ignored (nohup), and that stays so.
ENDING = tuple(number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CANNOT = 2  # exit code: as for wrong usage


def alone(path=None):
    """Holds the lock that one run has at a time, as long as the file returned is open. Raises RuntimeError when another has it."""
    path = path or pathlib.Path(tempfile.gettempdir()) / "hudsucker-perf.lock"
    if not path.exists():
        path.touch()
    file = open(path, "rb")  # reading is enough for flock, and possible when somebody else made the file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RuntimeError("another perf/run is running on this machine; each would measure the other: wait until it has ended") from None
    return file


def guarded(work):
    """Exit code of `work`, called in a process of its own. Its descendants end with it, also when it, or this process with its
    whole group, is killed by SIGKILL.

    There are three processes. This one passes signals on and waits. The guard below it, in a session of its own, inherits every
    descendant of the run that loses its parent, and kills them at the end. The run itself ends in order, as on Ctrl-C, when the
    guard dies, and the guard asks it to when this one dies.
    """
    return _tend(lambda: _guard(work))


def _guard(work):
    os.setsid()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    code = _tend(work)
    _end_descendants()
    return code


def _tend(work):
    """Forks a process for `work`, passes it the signals that end programs, and returns its exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # until somebody can pass them on
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _live(work, parent)

    def pass_on(number, _frame):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
    before = {number: signal.signal(number, pass_on) for number in ENDING}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for number, handler in before.items():
        signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _live(work, parent):
    code = CANNOT
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        if os.getppid() == parent:
            code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def _end_descendants():
    for pid in machine.children_of(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _prctl(option, value):
    if ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
