"""Landlock: a process tells Linux which folders it will touch, and can touch no other ever after.

A rule says "beneath this folder, these rights". With rules in force every opening, making, renaming
and removing of a file is checked by the system against the rules, on the path that links and `..`
really lead to; what no rule allows fails with "permission denied". Children inherit it, nobody can
take it back, and no rights of an administrator are needed to begin.

    rights handled = all that this Linux knows;   allowed(path) = union of the rules above the path

Not covered: asking whether a file exists, its size and its times (`os.stat`), the working folder of
a process, and files that are open already. Changes of modes, owners and times are not covered
either; syscall_filter.py makes those calls do nothing.

Paper: none; Qwen report 3.4 runs code and says nothing of how.
Origin: Landlock, in Linux 5.13 and newer where the distribution has it switched on.
Differs: rights that are newer than the running system are left out, as its manual advises.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHARACTER, MAKE_SOCKET, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
ALL = (1 << 16) - 1
BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}  # how many of the bits this version knows; later 16
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE

READ = READ_FILE | READ_DIR | EXECUTE
OWN = ALL & ~(MAKE_CHARACTER | MAKE_BLOCK | MAKE_SOCKET | IOCTL_DEVICE)
DEVICE = READ_FILE | WRITE_FILE


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result


def landlock_version() -> int:
    """Ask the running system for its Landlock; changes nothing.

    Returns:
        Version, 1 or more; 0 where there is none.
    """
    try:
        return _call(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    except (OSError, AttributeError, TypeError):  # no such call, switched off, or no Linux
        return 0


def handled_rights(version: int) -> int:
    """Give the bits of all rights that a version knows.

    >>> handled_rights(1) == (1 << 13) - 1
    True
    """
    return (1 << BY_VERSION.get(version, 16)) - 1


def restrict_files(rules: Iterable[tuple[str, int]]) -> int:
    """Restrict this thread, and all that it starts, to the rules; also its signals and TCP.

    Must run before the process has threads: those that exist already stay free.

    Args:
        rules: pairs (path, rights), rights being a sum of the constants above; a path that does not
            exist is passed over.

    Returns:
        The version of Landlock that is in force.

    Raises:
        OSError: no Landlock here, or it refuses.
    """
    version = landlock_version()
    if not version:
        raise OSError("Landlock: this Linux has none, or it is switched off")
    handled = handled_rights(version)
    network = 0b11 if version >= 4 else 0  # bind and connect of TCP: no rule allows any
    scope = 0b11 if version >= 6 else 0  # abstract sockets and signals stay inside
    attributes = struct.pack("QQQ", handled, network, scope)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _call(CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path, rights in rules:
            try:
                handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                folder = stat.S_ISDIR(os.fstat(handle).st_mode)
                allowed = rights & handled & (ALL if folder else OF_A_FILE)
                rule = struct.pack("=Qi", allowed, handle)
                _call(ADD_RULE, ruleset, 1, rule, ctypes.c_uint32(0))
            finally:
                os.close(handle)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(38, 1, 0, 0, 0)  # no new privileges: Landlock asks for it
        _call(RESTRICT_SELF, ruleset, ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return version
