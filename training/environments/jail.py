"""Run as a program by `training.environments.sandbox`: shut oneself in, then become a fresh interpreter.

    python -I -S jail.py LIMITS SOURCE WORDS

LIMITS is JSON of cpu_s, memory_bytes, output_bytes and processes. WORDS is the number of a pipe on which the jail says
that this machine does not allow it; then nothing of the source has run. The source cannot write there.

Standard library only. The order matters: namespaces first, then a read-only root of only the system's libraries and
Python, then nobody's rights, then the limits, then exec.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

UNABLE = 125
NOBODY = 65534
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_MOUNT_SETATTR = 442  # the same number on every architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SHOWN = ("/usr", "/lib", "/lib64", "/bin")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode(), flags, options.encode())
    _check(f"mount {target}", _libc.mount(*arguments))


def _read_only(path: str) -> None:
    attributes = (ctypes.c_uint64 * 4)(_ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    found = _libc.syscall(
        _MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, ctypes.byref(attributes), size
    )
    _check(f"make {path} read-only", found)


def namespaces(*, root: bool) -> None:
    """Leave the machine's processes, mounts and network; who is not root needs a user namespace for that."""
    user, group = os.getuid(), os.getgid()
    _check("unshare", _libc.unshare(_NEWNS | _NEWIPC | _NEWPID | _NEWNET | (0 if root else _NEWUSER)))
    if not root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)


def small_root(python: str) -> None:
    """See nothing but the system's libraries and this Python, and write nowhere."""
    root = tempfile.gettempdir()
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=64k,nr_inodes=64,mode=755")
    for path in dict.fromkeys((*_SHOWN, os.path.realpath(sys.base_prefix), str(Path(python).parent.parent))):
        target = root + path
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
        elif os.path.isdir(path) and not os.path.exists(target):
            os.makedirs(target)
            _mount(path, target, "", _MS_BIND | _MS_REC)
    _read_only(root)
    os.chdir(root)
    # Not chroot, from which no user namespace can be entered, and out of which there are ways.
    _check("pivot_root", _libc.pivot_root(b".", b"."))
    _check("umount", _libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")


def become_nobody() -> None:
    """Stop being root, whom limits on processes do not bind, and count processes in a namespace of one's own."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    _check("unshare", _libc.unshare(_NEWUSER))


def limits(wanted: dict[str, int]) -> None:
    """Bound time, memory, output and processes; the kernel enforces it."""
    cpu = wanted["cpu_s"]
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, wanted["memory_bytes"], wanted["memory_bytes"]),
        (resource.RLIMIT_FSIZE, wanted["output_bytes"], wanted["output_bytes"]),
        (resource.RLIMIT_NPROC, wanted["processes"], wanted["processes"]),
        (resource.RLIMIT_NOFILE, 32, 32),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))
    # Capabilities would lift the limits of the namespace's own root: an exec under this bit keeps none.
    _check("no_new_privs", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def drop_capabilities() -> None:
    """Give up every capability, in the bounding set too, so that exec as user 0 returns none."""
    for capability in range(64):
        _libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; beyond the last one it fails
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    nothing = (ctypes.c_uint32 * 6)()
    _check("capset", _libc.capset(ctypes.byref(header), ctypes.byref(nothing)))


def _child(wanted: dict[str, int], python: str, source: str, *, root: bool) -> None:
    _check("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    small_root(python)
    if root:
        become_nobody()
    limits(wanted)
    drop_capabilities()
    # What -I means, spelled out: it would also ignore the seed of hashes, and sets must have one order.
    environment = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
    os.execve(python, [python, "-s", "-P", "-S", "-B", "-c", source], environment)  # noqa: S606 - on purpose


def main() -> int:
    """Shut oneself in and run the source; return its exit status as a shell would."""
    wanted, source, words = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.set_inheritable(words, False)
    python = os.path.realpath(sys.executable)
    root = os.geteuid() == 0
    try:
        namespaces(root=root)
        child = os.fork()
        if child == 0:
            try:
                _child(wanted, python, source, root=root)
            except OSError as error:
                os.write(words, str(error).encode())
            os._exit(UNABLE)
    except OSError as error:
        os.write(words, str(error).encode())
        return UNABLE
    _, status = os.waitpid(child, 0)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main())
