"""Start the command that becomes a kernel: an environment without secrets, a folder of its own.

    runtime/settings.json     what the processes are told (kernel_process.py)
    runtime/kernel.json       Jupyter's: the sockets and the key that signs messages
    runtime/s-1, g-1 ...      the sockets, and the gates to them (message_gate.py)
    runtime/tmp, cache        where the code may write beside its working folder

Paper: none; Qwen report 3.4 runs code and says nothing of how.
Origin: KernelManager of jupyter_client.
Differs: none.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .kernel_limits import Limits
from .kernel_process import Settings

BOOT = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from minqwen.agent.kernel.kernel_watcher import main; main(sys.argv[2])"
)


def clean_environment(folder: str, runtime: str) -> dict[str, str]:
    """Make the environment of the code: nothing of ours, which may hold keys and passwords.

    Args:
        folder: becomes HOME.
        runtime: holds temporary files and caches.

    >>> sorted(set(clean_environment("/f", "/r")) & {"HOME", "AWS_SECRET_ACCESS_KEY"})
    ['HOME']
    """
    one_thread = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB")
    keep = ("TZ", "SYSTEMROOT")
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin:/usr/bin:/bin"]),
        "HOME": folder,
        "LANG": "C.UTF-8",
        "TMPDIR": f"{runtime}/tmp",
        "XDG_CACHE_HOME": f"{runtime}/cache",
        "MPLCONFIGDIR": f"{runtime}/cache",
        "IPYTHONDIR": f"{runtime}/cache/ipython",
        "PYTHONDONTWRITEBYTECODE": "1",
        **{f"{name}_NUM_THREADS": "1" for name in one_thread},
        **{name: os.environ[name] for name in keep if name in os.environ},
    }


def bring_font_cache(cache: Path) -> None:
    """Copy matplotlib's list of fonts, which takes seconds to make anew."""
    if "matplotlib" in sys.modules:
        home = Path(sys.modules["matplotlib"].get_cachedir())
    else:
        caches = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
        home = Path(caches, "matplotlib")
    for file in home.glob("fontlist-*.json"):
        with contextlib.suppress(OSError):
            shutil.copyfile(file, cache / file.name)


def start_kernel(
    folder: str, runtime: str, limits: Limits, *, without: tuple[str, ...], unsafe: bool
) -> Any:
    """Start the watcher, which starts the kernel (kernel_watcher.py).

    Args:
        folder: working folder, a real path.
        runtime: private folder, empty.
        limits: what the code may use.
        without: guards to leave out, of kernel_process.GUARDS.
        unsafe: go without a guard that does not work here.

    Returns:
        Jupyter's manager of the kernel.

    Raises:
        OSError: the command does not start.
    """
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import KernelManager

    for name in ("tmp", "cache"):
        Path(runtime, name).mkdir()
    bring_font_cache(Path(runtime, "cache"))
    root = os.path.realpath(Path(__file__).parents[3])  # the folder that holds minqwen
    connection_file = f"{runtime}/kernel.json"
    settings = Settings(folder, runtime, connection_file, root, limits, without, unsafe)
    fields = {**settings._asdict(), "limits": limits._asdict()}
    Path(runtime, "settings.json").write_text(json.dumps(fields), encoding="utf-8")
    command = [sys.executable, "-I", "-c", BOOT, root, f"{runtime}/settings.json"]

    class Specs(KernelSpecManager):
        """Knows one kernel: ours."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(argv=command, display_name="minqwen", language="python")

    local = {"transport": "ipc", "ip": f"{runtime}/s"} if os.name == "posix" else {}
    manager: Any = KernelManager(
        kernel_spec_manager=Specs(), connection_file=connection_file, **local
    )
    manager.start_kernel(
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=clean_environment(folder, runtime),
        cwd=runtime,
    )
    return manager
