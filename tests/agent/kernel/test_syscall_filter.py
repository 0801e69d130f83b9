"""The filter of system calls, run here step by step as the system would, on both machines."""

import errno

import pytest

from minqwen.agent.kernel import syscall_filter as sf

ALLOWED = "allowed"
EVERYTHING = [(name, visible) for name in sf.ARCHITECTURES for visible in (True, False)]


def run(program, machine, number, arguments=(), architecture=None):
    """The register machine of the system, as far as the filter uses it."""
    memory = {
        sf.NUMBER: number,
        sf.ARCHITECTURE: machine.architecture if architecture is None else architecture,
    }
    for place, argument in zip(sf.ARGUMENTS, (*arguments, 0, 0, 0), strict=False):
        memory[place] = argument & 0xFFFFFFFF
    register, place = 0, 0
    while True:
        code, yes, no, value = program[place]
        place += 1
        if code == sf.LOAD:
            register = memory[value]
        elif code == sf.RETURN:
            if value == sf.ALLOW:
                return ALLOWED
            return "killed" if value == sf.KILL else errno.errorcode.get(value & 0xFFFF, "ignored")
        else:
            true = {
                sf.EQUAL: register == value,
                sf.AT_LEAST: register >= value,
                sf.ANY_BIT: bool(register & value),
            }[code]
            place += yes if true else no


def asked(name, call, *arguments, processes=True, visible=False, own_pid=77):
    machine = sf.this_machine(name)
    program = sf.filter_program(
        machine, own_pid=own_pid, processes=processes, everything_visible=visible
    )
    number = sf.CALLS[call][machine.column]
    return None if number is None else run(program, machine, number, arguments)


@pytest.mark.parametrize(("name", "visible"), EVERYTHING)
def test_what_is_refused_and_ignored(name, visible):
    for call in sf.REFUSED:
        assert asked(name, call, visible=visible) in ("EPERM", None), call
    for call in sf.IGNORED:
        assert asked(name, call, visible=visible) in ("ignored", None), call
    assert asked(name, "socket") == "EPERM"
    assert asked(name, "fchmodat") == "ignored"
    assert asked(name, "clone3") == "ENOSYS"
    assert asked(name, "fallocate") == errno.errorcode[errno.EOPNOTSUPP]


@pytest.mark.parametrize("name", sf.ARCHITECTURES)
def test_everything_else_is_allowed(name):
    machine = sf.this_machine(name)
    known = {numbers[machine.column] for numbers in sf.CALLS.values()}
    program = sf.filter_program(machine, own_pid=7, processes=False, everything_visible=True)
    for number in set(range(500)) - known:
        assert run(program, machine, number) == ALLOWED


def test_other_ways_to_call_are_closed():
    machine = sf.this_machine("x86_64")
    program = sf.filter_program(machine, own_pid=7, processes=True, everything_visible=False)
    assert run(program, machine, 41, architecture=0x40000003) == "killed"  # 32-bit calls
    assert run(program, machine, 41 | sf.X32) == "ENOSYS"
    assert run(program, machine, 0xFFFFFFFF) == "ENOSYS"


@pytest.mark.parametrize("name", sf.ARCHITECTURES)
def test_threads_always_processes_perhaps_namespaces_never(name):
    thread, child, namespace = 0x003D0F00, 17, 0x10000000 | 17
    assert asked(name, "clone", thread, processes=True) == ALLOWED
    assert asked(name, "clone", thread, processes=False) == ALLOWED
    assert asked(name, "clone", child, processes=True) == ALLOWED
    assert asked(name, "clone", child, processes=False) == "EPERM"
    assert asked(name, "clone", namespace, processes=True) == "EPERM"
    assert asked(name, "execve", processes=True) == ALLOWED
    for call in sf.NEW_PROCESS:
        assert asked(name, call, processes=False) in ("EPERM", None)


@pytest.mark.parametrize("name", sf.ARCHITECTURES)
def test_signals_reach_only_the_process_itself_where_others_are_visible(name):
    for call in sf.BY_PROCESS:
        assert asked(name, call, 77, visible=True) == ALLOWED
        for other in (1, 76, 0, -1, -77):
            assert asked(name, call, other, visible=True) == "EPERM"
        assert asked(name, call, 1, visible=False) == ALLOWED
    assert asked(name, "tkill", 77, visible=True) == "EPERM"
    assert asked(name, "sched_setscheduler", 5, visible=True) == "ignored"
    assert asked(name, "sched_setscheduler", 5, visible=False) == ALLOWED
    assert asked(name, "prlimit64", 0, visible=True) == ALLOWED
    assert asked(name, "prlimit64", 77, visible=True) == ALLOWED
    assert asked(name, "prlimit64", 5, visible=True) == "EPERM"


@pytest.mark.parametrize("name", sf.ARCHITECTURES)
def test_what_leads_out_by_its_arguments(name):
    """The call, arguments that lead out, and arguments that honest code has."""
    stream, datagram, packets, close_on_exec = 1, 2, 5, 0o2000000
    for call, bad, good in (
        ("socketpair", [(1, datagram), (1, packets), (1, 3 | close_on_exec)], [(1, stream)]),
        ("socketpair", [(1, datagram | 0o4000)], [(1, stream | close_on_exec | 0o4000)]),
        ("fcntl", [(5, 8, 1), (5, 10, 9), (5, 15, 1)], [(8, 2, 1), (10, 4, 8), (15, 1, 10)]),
        ("ioctl", [(5, 0x8901), (5, 0x8902)], [(5, 0x5401), (0x8901, 0x5413)]),
        ("open", [(0, 0o1000), (0, 0o1001000)], [(0, 0), (0, 0o1101), (0, 0o1002)]),
        ("openat", [(0, 0, 0o1000)], [(0, 0, 0), (0, 0, 0o1101), (0, 0o1000, 0o2)]),
        ("close_range", [(3, -1, 2), (3, -1, 6)], [(3, -1, 0), (3, -1, 4), (2, 2, 0)]),
        ("clone", [(0x003D0F00 & ~0x400,)], [(0x003D0F00,)]),
    ):
        for processes in (True, False):
            for arguments in bad:
                said = asked(name, call, *arguments, processes=processes)
                assert said in ("EPERM", None), (call, arguments)
            for arguments in good:
                said = asked(name, call, *arguments, processes=processes)
                assert said in (ALLOWED, None), (call, arguments)
    assert [asked(name, "prctl", option) for option in (1, 3, 4, 15)] == [
        "ignored", ALLOWED, "ignored", ALLOWED,
    ]  # fmt: skip
    assert asked(name, "openat2") == "ENOSYS"


def test_no_number_stands_twice():
    for column in (0, 1):
        numbers = [each[column] for each in sf.CALLS.values() if each[column] is not None]
        assert len(numbers) == len(set(numbers))


def test_an_unknown_machine_is_refused():
    with pytest.raises(OSError, match="not riscv64"):
        sf.this_machine("riscv64")
