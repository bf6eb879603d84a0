"""The first program inside the box: takes a job on stdin, limits itself, runs the learner's code.

Started by execution_boxes.py as `python -I -S -B execution_runner.py PACKAGES RESULTS`, never
imported. Standard library only.
Read: main -> limit -> shut_in or leave_number_one -> run_code -> answer_calls.
RESULTS is the number of a pipe for pictures and values. Everything said on it is the learner's
word: the parent believes it no more than stdout, and learns the end of the run from the kernel.
"""

import base64
import contextlib
import ctypes
import io
import json
import linecache
import math
import os
import resource
import struct
import sys
import traceback
import types
from typing import Any

NAME = "your_code.py"
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # Landlock's system calls
READ = 0b1101  # execute, read a file, list a folder: everything else is refused everywhere
MAX_VALUE = 200_000  # characters of one value as JSON
GET_MATPLOTLIB = (
    "Figures need a package that is not installed: pip install -c constraints.txt -e '.[figures]'"
)


def main(arguments: list[str]) -> None:
    packages, results = arguments[0], int(arguments[1])
    sys.path.append(packages)
    job = json.loads(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    limit(job)
    if "matplotlib" in job["code"]:
        list_fonts()
    if job["filter"]:
        shut_in(packages, bytes.fromhex(job["filter"]))
    else:
        leave_number_one()
    sys.argv = [NAME]
    namespace = run_code(job["code"])
    sys.stdout.flush()
    with os.fdopen(results, "w") as pipe:
        answer_calls(job["calls"], namespace, pipe)
        send_pictures(pipe)


def limit(job: dict[str, Any]) -> None:
    """Hard limits of the kernel, for this process and every one it starts."""
    for what, most in (
        (resource.RLIMIT_AS, job["memory_bytes"]),
        (resource.RLIMIT_CPU, job["cpu_s"]),
        (resource.RLIMIT_NPROC, job["processes"] or resource.RLIM_INFINITY),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        allowed = resource.getrlimit(what)[1]
        if resource.RLIM_INFINITY not in (allowed, most):
            most = min(most, allowed)
        elif most == resource.RLIM_INFINITY:
            most = allowed
        soft = most
        if what == resource.RLIMIT_CPU:  # the signal of the soft limit says which limit it was
            most = most + 1 if allowed == resource.RLIM_INFINITY else min(most + 1, allowed)
        resource.setrlimit(what, (soft, most))


def leave_number_one() -> None:
    """Go on as a child of this process, which is number 1 of its box and only waits.

    Number 1 is special: the kernel drops signals that it sends itself, so that a learner's alarm
    or kill would do nothing, and it must bury every process whose parent has gone. When it leaves,
    with what the learner's program left with, the kernel ends everything else.
    """
    learner = os.fork()
    if learner == 0:
        return
    while True:
        ended, status = os.wait()
        if ended == learner:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)  # as a shell tells of a signal


def list_fonts() -> None:
    """matplotlib's list of fonts, written before no file can be written any more.

    Without programs to ask, it takes the fonts it brings along: quicker, and without complaints.
    """
    path = os.environ.pop("PATH", "")
    os.environ["PATH"] = os.devnull
    with contextlib.suppress(ImportError):  # the code's own import will say so
        import matplotlib.font_manager  # noqa: F401
    os.environ["PATH"] = path


def shut_in(packages: str, rules: bytes) -> None:
    """The second tier: Landlock for the files, a filter for everything else. No way back."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        sys.exit("this kernel has no Landlock")
    handled = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    wanted = struct.pack("QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(CREATE_RULESET, ctypes.c_char_p(wanted), size, 0)
    for folder in {packages, sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64"}:
        if os.path.isdir(folder):
            opened = os.open(folder, os.O_PATH)
            rule = struct.pack("=Qi", READ, opened)
            if libc.syscall(ADD_RULE, ruleset, 1, ctypes.c_char_p(rule), 0):
                sys.exit(f"Landlock refuses a rule: {os.strerror(ctypes.get_errno())}")
            os.close(opened)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(RESTRICT_SELF, ruleset, 0):
        sys.exit(f"Landlock cannot be switched on: {os.strerror(ctypes.get_errno())}")
    os.close(ruleset)
    install_filter(libc, rules)


def install_filter(libc: ctypes.CDLL, rules: bytes) -> None:
    """Hand the system-call filter to the kernel; from here on it holds."""
    buffer = ctypes.create_string_buffer(rules, len(rules))
    head = struct.pack("HxxxxxxQ", len(rules) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(head), 0, 0):
        sys.exit(f"the filter cannot be installed: {os.strerror(ctypes.get_errno())}")


def run_code(code: str) -> dict[str, Any]:
    """Run the code as the main program; an exception is shown as Python shows it, without us."""
    module = types.ModuleType("__main__")
    module.__dict__["__file__"] = NAME
    sys.modules["__main__"] = module
    linecache.cache[NAME] = (len(code), None, code.splitlines(True), NAME)
    try:
        exec(compile(code, NAME, "exec"), module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        ours = error.__traceback__
        assert ours is not None
        if isinstance(error, ModuleNotFoundError) and error.name == "matplotlib":
            error.add_note(GET_MATPLOTLIB)
        traceback.print_exception(type(error), error, ours.tb_next)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    return module.__dict__


def answer_calls(calls: list[str], namespace: dict[str, Any], pipe: io.TextIOBase) -> None:
    """Evaluate each expression and write its value, or its error, as a line of JSON."""
    for number, call in enumerate(calls):
        try:
            value = json.dumps(plain(eval(call, namespace)), allow_nan=False)
            if len(value) > MAX_VALUE:
                raise ValueError(f"the value is {len(value):,} characters long")
            frame = f'{{"call": {number}, "value": {value}}}'
        except Exception as error:
            frame = json.dumps({"call": number, "error": f"{type(error).__name__}: {error}"})
        pipe.write(frame + "\n")


def plain(value: Any) -> Any:
    """A value as JSON can hold it: arrays become lists, nan and infinities words."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be compared; return numbers or lists of them")


def send_pictures(pipe: io.TextIOBase) -> None:
    """Open matplotlib figures, and PNG files that the code wrote into its folder."""
    found = []
    if "matplotlib.pyplot" in sys.modules:
        plt = sys.modules["matplotlib.pyplot"]
        for number in plt.get_fignums()[:8]:
            buffer = io.BytesIO()
            plt.figure(number).savefig(buffer, format="png", dpi=110)
            found.append(buffer.getvalue())
    with contextlib.suppress(OSError):  # the second tier may not even list its folder
        for name in sorted(os.listdir(".")):
            if name.endswith(".png") and os.path.isfile(name) and os.path.getsize(name) < 2_000_000:
                with open(name, "rb") as file:
                    found.append(file.read())
    for picture in found[:8]:
        pipe.write(json.dumps({"picture": base64.b64encode(picture).decode()}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
