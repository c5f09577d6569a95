"""What a figure depends on: the machine and the version of everything."""

import os
import platform
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))


def lines_of(path):
    try:
        with open(path) as lines:
            return [line.split(":", 1) for line in lines if ":" in line]
    except OSError:
        return []


def value_of(path, name):
    """The first value with this name in a file of `name: value` lines, or nothing."""
    return next((value.strip() for key, value in lines_of(path) if key.strip() == name), None)


def commit():
    """The commit that is checked out, and whether tracked files differ from it."""
    def git(*words):
        return subprocess.run(["git", "-C", HERE, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if git("status", "--short", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe():
    """The machine now; the load says whether something else was running."""
    memory = value_of("/proc/meminfo", "MemTotal")
    return {
        "cpu": value_of("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(int(memory.split()[0]) * 1024 / 1e9, 1) if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
        "commit": commit(),
    }
