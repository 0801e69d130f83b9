"""The watcher of a code interpreter: starts the kernel, obeys our program, leaves nothing over.

    our program -- watcher -- first process -- kernel, and what it starts
                              '------ in namespaces of their own -------'

Our program starts the watcher and holds a pipe to it: run, pause, and the end when the pipe closes,
which also happens when our program is killed. Five times a second the watcher looks at the memory
and the files of all together. It stands outside of the namespaces, where the code cannot see it.

The first process has number 1 in its list of processes. It collects what others leave behind, and
when it ends the system ends all the rest. Where namespaces are forbidden there is none: the kernel
then may start no processes at all, so that nothing can be left over either.

Between two calls everything is stopped: a thread or a child that outlives a call does nothing until
the next one. What cannot be stopped, because its parts wake each other, is ended.

Paper: none; Qwen report 3.4 runs code and says nothing of how.
Origin: init and its reaping of children; prctl(2), pid_namespaces(7), proc(5).
Differs: none.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from . import namespaces
from .disk_use import folder_use, remove_folder, removed_use
from .kernel_limits import MIB, Limits
from .kernel_process import Settings, run_kernel
from .process_table import Process, descendants, memory_in_use

LOOK_SECONDS = 0.2
MOST_ENTRIES = 1_000_000  # counted of a folder that was there before us


def _become_kernel(settings: Settings, isolated: bool, report: int) -> NoReturn:
    """In a new child on Linux: leave everything of the parent behind, and be the kernel."""
    namespaces.prctl(namespaces.DIE_WITH_PARENT, signal.SIGKILL)
    namespaces.prctl(namespaces.DUMPABLE, 1)  # the watcher asks for its memory
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(nothing, handle)
    os.closerange(3, report)
    os.closerange(report + 1, os.sysconf("SC_OPEN_MAX"))
    run_kernel(settings, isolated, report)


def _first_process(settings: Settings, report: int) -> NoReturn:
    """Be process 1 of the namespace: start the kernel, collect the dead, end with the kernel."""
    namespaces.prctl(namespaces.DIE_WITH_PARENT, signal.SIGKILL)
    os.setsid()
    kernel = os.fork()
    if kernel == 0:
        _become_kernel(settings, True, report)
    namespaces.prctl(namespaces.DUMPABLE, 0)  # its memory is nobody's business
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for handle in (0, 1, report):
        os.close(handle)
    while True:
        pid, status = os.wait()
        if pid == kernel:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _over_limit(
    settings: Settings, processes: dict[int, Process], at_start: tuple[int, int]
) -> str | None:
    """Say which limit all together have crossed, if any.

    A folder that was too full already at the start may not grow; so a new kernel can still empty
    it.

    Args:
        settings: with the limits.
        processes: the kernel and all that it started.
        at_start: what `folder_use` said then.
    """
    limits = settings.limits
    memory = limits.memory_mib * MIB
    if (
        sum(process.memory for process in processes.values()) > memory
        and memory_in_use(processes) > memory
    ):
        return f"used more than {limits.memory_mib} MiB of memory"
    folders = _folders(settings)
    most_entries = max(limits.files, at_start[1])
    try:
        size, entries = folder_use(folders, most_entries)
        size += removed_use(processes.values(), folders, limits.file_mib * MIB)
    except OSError as error:
        return f"made files that cannot be counted ({error.strerror})"
    if size > max(limits.folder_mib * MIB, at_start[0]):
        return f"wrote more than {limits.folder_mib} MiB into its folder"
    if entries > most_entries:
        return f"made more than {limits.files} files"
    return None


def _folders(settings: Settings) -> tuple[str, ...]:
    """Where the code can write."""
    return (settings.folder, f"{settings.runtime}/tmp", f"{settings.runtime}/cache")


def _signal_all(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue


def _stop_all(keep: int) -> bool:
    """Stop all that run, again and again while they start or wake each other; say if it worked."""
    for _ in range(50):
        running = [
            pid
            for pid, process in descendants(os.getpid()).items()
            if pid != keep and process.state not in "Tt"
        ]
        if not running:
            return True
        _signal_all(running, signal.SIGSTOP)
    return False


def _kill_all(child: int, isolated: bool) -> None:
    """End the child and all that came from it, and wait until nothing is left."""
    _signal_all([child], signal.SIGKILL)
    for _ in range(500):
        if not isolated:
            _signal_all(descendants(os.getpid()), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _say(**line: Any) -> None:
    with contextlib.suppress(OSError):  # our program may be gone
        os.write(1, json.dumps(line).encode() + b"\n")


def _how_it_ended(code: int) -> str:
    """Put an exit code into words, also that of a first process (128 + signal).

    >>> _how_it_ended(0), _how_it_ended(-11), _how_it_ended(137)
    ('ended itself (exit code 0)', 'was ended by SIGSEGV', 'was ended by SIGKILL')
    """
    number = -code if code < 0 else code - 128
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"ended itself (exit code {code})"


def _watch(settings: Settings, child: int, isolated: bool, ready: int, woken: int) -> str | None:
    """Obey our program until the end; say why it ended, or None when our program wants it."""
    kernel, running, next_look = 0, True, 0.0
    first = child if isolated else 0
    at_start = (0, 0)
    while True:
        wait = max(0.0, next_look - time.monotonic()) if running and kernel else None
        handles = [handle for handle in (0, woken, ready) if handle >= 0]
        readable = select.select(handles, [], [], wait)[0]
        if ready in readable:
            line = os.read(ready, 65536)
            try:
                at_start = folder_use(_folders(settings), MOST_ENTRIES)  # the code is not in yet
            except OSError as error:
                _say(failed=f"{settings.folder} holds what cannot be counted: {error}")
                return None
            kernel = next((pid for pid in descendants(os.getpid()) if pid != child), child)
            os.write(1, line)
            ready = -1
        if woken in readable and signal.SIGINT in os.read(woken, 64) and kernel:
            try:
                os.killpg(kernel, signal.SIGINT)  # also the programs it waits for
            except OSError:
                _signal_all([kernel], signal.SIGINT)
        if 0 in readable:
            orders = os.read(0, 64)
            if not orders or b"e" in orders:
                return None
            running = orders.endswith(b"r")
            if running:
                _signal_all(descendants(os.getpid()), signal.SIGCONT)
            elif _stop_all(keep=first):
                _say(paused=True)
            else:
                return "did not stand still after a call"
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return _how_it_ended(os.waitstatus_to_exitcode(status))
        if running and kernel and time.monotonic() >= next_look:
            processes = descendants(os.getpid())
            processes.pop(first, None)
            reason = _over_limit(settings, processes, at_start)
            if reason:
                return reason
            next_look = time.monotonic() + LOOK_SECONDS


def watch(settings: Settings) -> None:
    """Be the watcher: start the others, obey our program, and leave nothing behind.

    Orders come on standard input: `r` run, `p` pause, `e` end; its end is the same. Lines of JSON
    go to standard output: `ready` or `failed` once, `paused` when all stand still, and `ended` with
    the reason.
    """
    import resource  # not on Windows

    most_handles = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_handles, most_handles))  # for deep folders
    isolated = "namespaces" not in settings.without and namespaces.namespaces_work()
    if isolated:
        namespaces.enter_namespaces()
    namespaces.prctl(namespaces.CHILD_SUBREAPER, 1)
    ready, report = os.pipe()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    child = os.fork()
    if child == 0:
        if isolated:
            _first_process(settings, report)
        _become_kernel(settings, False, report)
    os.close(report)
    namespaces.prctl(namespaces.DUMPABLE, 0)
    reason = None
    try:
        reason = _watch(settings, child, isolated, ready, woken)
    finally:
        _kill_all(child, isolated)
        remove_folder(settings.runtime)  # our program may be gone
        if reason:
            _say(ended=reason)


def main(settings_file: str) -> None:
    """Start from a file of settings; see `Settings`."""
    fields = json.loads(Path(settings_file).read_text(encoding="utf-8"))
    fields["limits"] = Limits(**fields["limits"])
    settings = Settings(**fields)
    if sys.platform == "linux":
        watch(settings)
    else:  # no watcher, and no guard but that inside Python
        run_kernel(settings, isolated=False, report=os.dup(1))
