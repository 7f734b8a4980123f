"""``syncyte doctor``: what is installed, what the machine offers, and what mends each thing that is wrong.

Reads versions from package metadata without importing the packages; only torch is imported, to ask it for devices.
Leaves out repairs: it prints the command that mends, and changes nothing.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from syncyte.cli import options

GIB = 2**30
LITTLE_MEMORY, LITTLE_DISK = 4 * GIB, 2 * GIB


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Print versions, devices, memory, optional extras, and what mends what is missing.

    Leaves with 0 where the core works and with 1 where it does not.

    Examples
    --------
    syncyte doctor
    syncyte doctor --device cuda
    syncyte doctor --json
    """
    del seed  # nothing is drawn
    found = examine(Path.cwd(), device)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        options.say(as_text(found), quiet)
    if not found["works"]:
        raise typer.Exit(1)


def examine(folder: Path, device: str = "auto") -> dict[str, Any]:
    """Everything that doctor knows, JSON-ready.

    ``problems`` is a list of ``{"what", "mend", "stops"}``; ``works`` is false where any of them stops the core.
    """
    core, extras = requirements("syncyte")
    torch_state = examine_torch()
    machine = examine_machine(folder)
    problems = [
        *package_problems(core),
        *torch_problems(torch_state, device),
        *machine_problems(machine, folder),
    ]
    return {
        "syncyte": metadata.version("syncyte"),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": machine,
        "torch": torch_state,
        "packages": core,
        "extras": extras,
        "problems": problems,
        "works": not any(problem["stops"] for problem in problems),
    }


def requirements(package: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Find the declared dependencies with their versions: those of the core, and those of each optional extra."""
    from packaging.requirements import Requirement

    core: dict[str, Any] = {}
    extras: dict[str, dict[str, Any]] = {}
    for line in metadata.requires(package) or ():
        wanted = Requirement(line)
        marker = str(wanted.marker or "")
        if wanted.name == package:
            continue
        version = _installed(wanted.name)
        fits = version is not None and wanted.specifier.contains(version, prereleases=True)
        state = {"wanted": str(wanted.specifier), "found": version, "fits": fits}
        if "extra ==" not in marker:
            core[wanted.name] = state
            continue
        for extra in metadata.metadata(package).get_all("Provides-Extra") or ():
            if wanted.marker and wanted.marker.evaluate({"extra": extra}):
                extras.setdefault(extra, {})[wanted.name] = state
    return core, extras


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def examine_torch() -> dict[str, Any]:
    """Version and devices as torch sees them, or the error that importing it gives."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of it is missing or broken
        return {"error": f"{type(error).__name__}: {error}"}
    devices = [{"name": "cpu", "kind": torch.backends.cpu.get_cpu_capability(), "bf16": bf16_speed()}]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        bf16 = torch.cuda.is_bf16_supported()
        devices.append({"name": f"cuda:{index}", "kind": about.name, "bf16": bf16, "memory": about.total_memory})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "kind": "Apple GPU", "bf16": True})
    return {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "devices": devices,
    }


def bf16_speed(size: int = 768, repeats: int = 10) -> float:
    """Speed of a bfloat16 matrix product on the CPU over that of float32, best of ``repeats``: above 1, bf16 pays."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        left = torch.ones(size, size, dtype=dtype)
        best = float("inf")  # the best of several: the first calls prepare the kernel
        for _ in range(repeats):
            start = time.perf_counter()
            torch.mm(left, left)
            best = min(best, time.perf_counter() - start)
        return best

    return round(seconds(torch.float32) / seconds(torch.bfloat16), 2)


def examine_machine(folder: Path) -> dict[str, Any]:
    """Cores, threads, memory and disk, in bytes where they are sizes; None where it cannot be told."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory: dict[str, int | None] = {"total": None, "available": None}
    if _installed("psutil"):
        import psutil

        state = psutil.virtual_memory()
        memory = {"total": state.total, "available": state.available}
    return {
        "cores": cores,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "memory": memory,
        "disk_free": shutil.disk_usage(folder).free,
        "folder_writable": os.access(folder, os.W_OK),
        "nvidia_driver": shutil.which("nvidia-smi") is not None,
    }


def _problem(what: str, mend: str, stops: bool = False) -> dict[str, Any]:
    return {"what": what, "mend": mend, "stops": stops}


def package_problems(core: dict[str, Any]) -> list[dict[str, Any]]:
    """Core dependencies that are missing or outside the range they are known to work in."""
    problems = []
    for name, state in core.items():
        mend = f"pip install '{name}{state['wanted']}'"
        if state["found"] is None:
            problems.append(_problem(f"{name} is not installed", mend, stops=True))
        elif not state["fits"]:
            problems.append(_problem(f"{name} {state['found']} is outside {state['wanted']}", mend))
    return problems


def torch_problems(state: dict[str, Any], device: str) -> list[dict[str, Any]]:
    """Say what keeps torch, or the device asked for, from working."""
    if "error" in state:
        mend = "pip install --force-reinstall torch"
        return [_problem(f"torch cannot be imported ({state['error']})", mend, stops=True)]
    problems = []
    names = [entry["name"] for entry in state["devices"]]
    gpu = any(name != "cpu" for name in names)
    if device != "auto" and not any(name == device or name.startswith(f"{device}:") for name in names):
        mend = f"choose --device auto or one of: {', '.join(names)}"
        problems.append(_problem(f"the device {device!r} is not here", mend, stops=True))
    if not gpu and shutil.which("nvidia-smi") and not state["cuda_build"]:
        mend = "install torch with CUDA in the same environment, as its own site describes for your driver"
        problems.append(_problem("there is an NVIDIA driver but this torch is a CPU build", mend))
    elif not gpu and shutil.which("nvidia-smi"):
        mend = "update the NVIDIA driver, or install a torch built for an older CUDA"
        problems.append(_problem("there is an NVIDIA driver but torch finds no GPU", mend))
    return problems


def machine_problems(machine: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Threads, memory and disk that will slow a run down or end it."""
    problems = []
    threads, cores = machine["omp_num_threads"], machine["cores"] or 1
    if threads is not None and not threads.isdigit():
        problems.append(_problem(f"OMP_NUM_THREADS={threads!r} is not a number", f"export OMP_NUM_THREADS={cores}"))
    elif threads is not None and int(threads) > cores:
        what = f"OMP_NUM_THREADS={threads} is more than the {cores} cores: threads will wait for each other"
        problems.append(_problem(what, f"export OMP_NUM_THREADS={cores}"))
    available = machine["memory"]["available"]
    if available is not None and available < LITTLE_MEMORY:
        what = f"only {_size(available)} of memory are free"
        problems.append(
            _problem(what, "close other programs, or train from a store (syncyte data store) with a smaller preset")
        )
    if machine["disk_free"] < LITTLE_DISK:
        problems.append(
            _problem(f"only {_size(machine['disk_free'])} are free on the disk of {folder}", "free some space")
        )
    if not machine["folder_writable"]:
        problems.append(_problem(f"{folder} cannot be written to", "give --out a folder of your own"))
    return problems


def _size(count: int | None) -> str:
    return "unknown" if count is None else f"{count / GIB:.1f} GiB"


def as_text(found: dict[str, Any]) -> str:
    """Lay the findings out as lines for a terminal."""
    machine, torch_state = found["machine"], found["torch"]
    rows = [
        ("syncyte", found["syncyte"]),
        ("python", f"{found['python']}  {found['executable']}"),
        ("platform", found["platform"]),
        ("cores", f"{machine['cores']} (OMP_NUM_THREADS {machine['omp_num_threads'] or 'not set'})"),
        ("memory", f"{_size(machine['memory']['available'])} free of {_size(machine['memory']['total'])}"),
        ("disk", f"{_size(machine['disk_free'])} free here"),
    ]
    for entry in torch_state.get("devices", ()):
        bf16 = (
            f"bf16 {entry['bf16']}x the speed of float32" if entry["name"] == "cpu" else f"bf16 {_yes(entry['bf16'])}"
        )
        rows.append((f"device {entry['name']}", f"{entry['kind']}, {bf16}"))
    lines = [f"{name:<16} {value}" for name, value in rows]
    lines += ["", "packages"]
    lines += [f"  {name:<16} {state['found'] or 'missing'}" for name, state in found["packages"].items()]
    lines += ["", "optional extras"]
    for extra, packages in found["extras"].items():
        missing = [name for name, state in packages.items() if state["found"] is None]
        have = "installed" if not missing else f"missing {', '.join(missing)}: pip install 'syncyte[{extra}]'"
        lines.append(f"  {extra:<16} {have}")
    lines.append("")
    for problem in found["problems"]:
        lines += [f"{'PROBLEM' if problem['stops'] else 'note'}: {problem['what']}", f"  mend: {problem['mend']}"]
    lines.append("The core works." if found["works"] else "The core does not work yet: see the lines marked PROBLEM.")
    return "\n".join(lines)


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
