"""Which system calls a learner's code may not make: the kernel's filter language, written by hand.

A process that installs this filter never gets rid of it, and neither do its children. A forbidden
call fails with EPERM, as if for lack of rights. Called by execution_boxes.py (for bubblewrap) and
execution_runner.py (for Landlock). Standard library only: the runner reads it inside the box.
Read: NUMBERS -> CLOSED -> one_process_only -> program.

The filter is a list of instructions of 8 bytes: code, two jump distances, a constant. It sees the
number of the call, the processor's name and the six arguments, never the memory they point to.
"""

import errno
import platform
import struct

# name -> number on x86_64, number on aarch64 (None: the call does not exist there)
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "personality": (135, 92),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "syslog": (103, 116),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "fanotify_init": (300, 262),
    "vhangup": (153, 58),
    "mknod": (133, None),
    "mknodat": (259, 33),
}
# What else is closed where nothing but Landlock stands between the code and our files.
ALSO_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "truncate": (76, 45),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30),
}
CLONE, CLONE3, IOCTL = (56, 220), (435, 435), (16, 29)
KILL, TGKILL, PRLIMIT = (62, 129), (234, 131), (302, 261)

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, kernel's name
X32 = 0x40000000  # a second numbering on x86_64, through which a denied call could come back
NEW_NAMESPACES = 0x7E020080  # the CLONE_NEW* bits of clone's flags
CLONE_THREAD = 0x00010000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # types characters into the terminal of whoever started us

LOAD, EQUAL, HAS_BITS, AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
ALLOW, REFUSE, KILL_PROCESS = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
NOT_THERE = 0x00050000 | errno.ENOSYS  # glibc then falls back from clone3 to clone


def instruction(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, k)


def when(number: int, body: list[bytes]) -> list[bytes]:
    """Run `body` for this call only; a body that ends without a verdict must reload the number."""
    return [instruction(EQUAL, number, 0, len(body)), *body]


def argument(index: int) -> bytes:
    """Load the low half of an argument; both processors put it first."""
    return instruction(LOAD, 16 + 8 * index)


def one_process_only(column: int, pid: int) -> list[bytes]:
    """No new process, no signal to another one, no limits of another one: for Landlock's tier."""
    refuse, allow = instruction(RETURN, REFUSE), instruction(RETURN, ALLOW)
    rules: list[bytes] = []
    for numbers in ALSO_NUMBERS.values():
        if (number := numbers[column]) is not None:
            rules += when(number, [refuse])
    for call in (KILL, TGKILL):
        own = [argument(0), instruction(EQUAL, pid, 0, 1), allow, refuse]
        rules += when(call[column], own)
    only_self = [argument(0), instruction(EQUAL, 0, 0, 1), allow, refuse]
    rules += when(PRLIMIT[column], only_self)
    thread = [argument(0), instruction(HAS_BITS, CLONE_THREAD, 0, 1), allow, refuse]
    return rules + when(CLONE[column], thread)


def program(machine: str | None = None, alone_pid: int | None = None) -> bytes:
    """The whole filter; `alone_pid` adds the rules that keep this process alone.

    >>> len(program("x86_64")) % 8
    0
    """
    column, name = MACHINES[machine or platform.machine()]
    refuse = instruction(RETURN, REFUSE)
    rules = [
        instruction(LOAD, 4),
        instruction(EQUAL, name, 1, 0),
        instruction(RETURN, KILL_PROCESS),
    ]
    rules.append(instruction(LOAD, 0))
    if column == 0:
        rules += [instruction(AT_LEAST, X32, 0, 1), instruction(RETURN, NOT_THERE)]
    for numbers in NUMBERS.values():
        if (number := numbers[column]) is not None:
            rules += when(number, [refuse])
    rules += when(CLONE3[column], [instruction(RETURN, NOT_THERE)])
    typing = [argument(1), instruction(EQUAL, TIOCSTI, 1, 0), instruction(EQUAL, TIOCLINUX, 0, 1)]
    rules += when(IOCTL[column], [*typing, refuse, instruction(RETURN, ALLOW)])
    if alone_pid is not None:
        rules += one_process_only(column, alone_pid)
    else:
        spaces = [argument(0), instruction(HAS_BITS, NEW_NAMESPACES, 0, 1), refuse]
        rules += when(CLONE[column], [*spaces, instruction(RETURN, ALLOW)])
    return b"".join([*rules, instruction(RETURN, ALLOW)])
