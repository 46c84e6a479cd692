"""What this machine and its environment offer to Ganline, and what is amiss. Looks only: nothing that it makes stays.

Every check runs in a thread of its own for a limited time, so that a server that stalls holds up no other.
"""

import glob
import importlib.metadata
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import services
from flows.services import PROBE_SECONDS, Amiss, reason_of, standing_folder
from pipeline.errors import UserError
from pipeline.locks import is_held
from pipeline.redact import redact
from pipeline.storage import Storage, cache_root, default_uri

LIMIT_SECONDS = 5.0
_TORCH_SECONDS = 60.0  # the first import of a CUDA build reads gigabytes
_GIB = 1 << 30
_LEAST_DISK, _LEAST_MEMORY, _LEAST_SHM = 5 * _GIB, 2 * _GIB, _GIB // 2
_GPU_DEVICES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")  # CUDA, ROCm, and CUDA under WSL
_DISTRIBUTION = "ganline"


@dataclass(frozen=True)
class Check:
    """One thing looked at. `remedy` is what to do about it, empty where all is well."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def diagnose(storage_uri: str | None) -> list[Check]:
    """Every check, in a fixed order; none raises, none takes longer than its limit."""
    uri = storage_uri or default_uri()
    checks: list[tuple[str, Callable[[], str], float]] = [
        ("python", _python, LIMIT_SECONDS),
        ("packages", _packages, LIMIT_SECONDS),
        ("cpu", _cpu, LIMIT_SECONDS),
        ("gpu", _gpu, _TORCH_SECONDS),
        ("memory", _memory, LIMIT_SECONDS),
        ("shared memory", _shared_memory, LIMIT_SECONDS),
        ("sockets", _sockets, LIMIT_SECONDS),
        ("storage", lambda: _storage(uri), LIMIT_SECONDS),
        ("disk", lambda: _disk(uri), LIMIT_SECONDS),
        ("runs", lambda: _runs(uri), LIMIT_SECONDS),
        ("mlflow", services.mlflow, LIMIT_SECONDS),
        ("prefect", services.prefect, LIMIT_SECONDS),
        ("ray", services.ray, LIMIT_SECONDS),
    ]
    return [wait() for wait in [_start(*check) for check in checks]]


def check_values(checks: list[Check]) -> dict[str, Any]:
    return {"ok": all(check.ok for check in checks), "checks": [vars(check) for check in checks]}


def check_line(check: Check) -> str:
    remedy = f"; {check.remedy}" if check.remedy else ""
    return f"{'ok' if check.ok else 'BAD':<4}{check.name:<14} {check.detail}{remedy}"


def _start(name: str, look: Callable[[], str], limit: float) -> Callable[[], Check]:
    """Begins a check; what it returns waits for the result."""
    result: list[Check] = []

    def guarded() -> None:
        try:
            result.append(Check(name, True, " ".join(look().split())))
        except Amiss as amiss:
            result.append(Check(name, False, " ".join(amiss.detail.split()), amiss.remedy))
        except Exception as error:  # its text may hold an endpoint's password
            where = f"the check itself failed: {type(error).__name__}"
            result.append(Check(name, False, where, "please report it"))

    # A daemon, so that one that hangs does not keep the command from ending.
    thread = threading.Thread(target=guarded, name=f"doctor-{name}", daemon=True)
    thread.start()

    def wait() -> Check:
        thread.join(limit)
        late = Check(name, False, f"no answer within {limit:g} s", "see whether what it asks can be reached from here")
        return result[0] if result else late

    return wait


def _python() -> str:
    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    bounds = importlib.metadata.metadata(_DISTRIBUTION)["Requires-Python"] or ""
    if version not in SpecifierSet(bounds, prereleases=True):
        raise Amiss(f"{version}, but Ganline needs {bounds}", "make the virtual environment with another Python")
    return f"{version} at {sys.executable}"


def _packages() -> str:
    wrong = list(dict.fromkeys(_unmet(_DISTRIBUTION, "")))
    if wrong:
        raise Amiss(", ".join(wrong), "install Ganline again: pip install -e . (or make)")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "ray", "mlflow", "prefect")]
    return ", ".join(versions) + ", and the others as required"


def _unmet(distribution: str, extra: str) -> Iterator[str]:
    """Direct requirements that are missing or out of bounds, and those of the extras that they ask for."""
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires(distribution) or []:
        required = Requirement(line)
        if required.marker and not required.marker.evaluate({"extra": extra}):
            continue
        if extra and "extra" not in str(required.marker):
            continue  # a plain requirement of a package is that package's own affair
        try:
            version = importlib.metadata.version(required.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{required.name} is missing"
            continue
        if not required.specifier.contains(version, prereleases=True):
            yield f"{required.name} {version} is not {required.specifier}"
        for wanted in required.extras:
            yield from _unmet(required.name, wanted)


def _cpu() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return f"{cores} cores"
    native = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    return f"{cores} cores, {f'bf16 by {native[0]}' if native else 'no native bf16: fp32'}"


def _gpu() -> str:
    if not any(glob.glob(device) for device in _GPU_DEVICES):
        return "none: training runs on the CPU"
    try:
        import torch
    except ImportError as error:
        raise Amiss(f"torch can not be imported: {type(error).__name__}", "install Ganline again") from None
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise Amiss(
            f"there is a GPU, but torch {torch.__version__}, built {built}, can not use it",
            "install a torch that fits the driver, or set CUDA_VISIBLE_DEVICES",
        )
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    shown = ", ".join(f"{card.name} {card.total_memory / _GIB:.0f} GiB" for card in cards)
    return f"{len(cards)}: {shown}; {'bf16' if torch.cuda.is_bf16_supported() else 'no bf16: fp32'}"


def _memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return "not known on this system"
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    free, total = sizes["MemAvailable"], sizes["MemTotal"]
    if limit := _cgroup("memory.max"):  # a container's share
        total, free = min(total, limit), min(free, limit - (_cgroup("memory.current") or 0))
    said = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free < _LEAST_MEMORY:
        raise Amiss(said, f"free some: training needs about {_LEAST_MEMORY / _GIB:.0f} GiB")
    return said


def _cgroup(name: str) -> int | None:
    try:
        return int(Path("/sys/fs/cgroup", name).read_text())
    except (OSError, ValueError):  # none, or "max"
        return None


def _shared_memory() -> str:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return "none on this system; Ray uses its temporary folder"
    usage = shutil.disk_usage(folder)
    said = f"{usage.free / _GIB:.2f} of {usage.total / _GIB:.2f} GiB free in {folder}"
    if usage.free < _LEAST_SHM:
        raise Amiss(said, "give the container more, as in docker run --shm-size=2g; Ray falls back to the disk")
    return said


def _sockets() -> str:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(PROBE_SECONDS)
            with socket.create_connection(server.getsockname(), PROBE_SECONDS):
                server.accept()[0].close()
    except OSError as error:
        remedy = "let processes open sockets on 127.0.0.1: Ray, Prefect and torch need them"
        raise Amiss(f"loopback: {reason_of(error)}", remedy) from None
    return "loopback answers"


def _place(uri: str) -> Storage:
    place = Storage(uri)
    try:
        place.is_local  # noqa: B018  connects
    except UserError as error:
        text = str(error).replace(uri, redact(uri))
        detail, _, remedy = text.rpartition("; ")
        raise Amiss(detail, remedy) from None
    return place


def _storage(uri: str) -> str:
    place, shown = _place(uri), redact(uri)
    remedy = "set GANLINE_STORAGE or --storage to a place that can be written"
    if not place.is_local:
        try:
            place.prepare()
        except UserError as error:
            raise Amiss(str(error).rpartition(";")[0].replace(uri, shown), remedy) from None
        return f"{shown} can be written"
    folder = place.local_path()
    standing = standing_folder(folder)
    try:
        if not standing.is_dir():
            raise NotADirectoryError(20, f"{standing} is no folder")
        with tempfile.TemporaryFile(dir=standing) as probe:
            probe.write(b"\0")
    except OSError as error:
        raise Amiss(f"{folder} can not be written: {reason_of(error)}", remedy) from None
    return f"{folder} can be {'written' if folder.exists() else 'made: it is not there yet'}"


def _disk(uri: str) -> str:
    place = _place(uri)
    folder = place.local_path() if place.is_local else cache_root(place)
    usage = shutil.disk_usage(standing_folder(folder))
    said = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free at {folder}"
    if usage.free < _LEAST_DISK:
        raise Amiss(said, f"make room: less than {_LEAST_DISK / _GIB:.0f} GiB is soon used up")
    return said


def _runs(uri: str) -> str:
    """Runs whose lock another process holds; that is no fault."""
    place = _place(uri)
    if not place.is_local:
        return "in an object store: `ganline runs` says which are being trained"
    busy = [entry.path for entry in place.list("runs") if entry.is_folder and is_held(place, f"{entry.path}/lock")]
    names = ", ".join(path.rpartition("/")[2] for path in busy)
    return f"being trained by another command: {names}" if busy else "no other command is training here"
