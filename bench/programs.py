"""Runs toktune or a peer once and measures it: tokens a second as each reports them, memory as the system saw it."""

import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


class Failed(Exception):
    """The program ended with an error, or was killed (by the system, when memory ran out)."""


def reason(lines):
    """toktune says it in a line of its own, Python in the last one."""
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines[-1:] or ["no message"])[0]


def child(command):
    """Runs a command; its output, and the largest resident set of the process in bytes, measured alike for all."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        if process.returncode == -9:
            raise Failed("killed by the system: there was not enough memory, most likely")
        if process.returncode:
            raise Failed(f"exit {process.returncode}: {reason(err.read().strip().splitlines())}")
        unit = 1 if sys.platform == "darwin" else 1024
        return out.read(), usage.ru_maxrss * unit, seconds


def toktune(run, at, args, flags=()):
    """One run of toktune. The first step is left out of the rate, as for the peers."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        command = [
            args.toktune, "train", "--model", at.gguf if run.source == "gguf" else at.folder, "--data", at.rows(run.rows),
            "--output", out, "--batch-size", str(run.batch),
            "--max-steps", str(args.steps), "--learning-rate", str(args.lr), "--shuffle", "false",
            "--max-grad-norm", "0", "--precision", run.precision, "--threads", str(args.threads), "--log-format", "json",
            "--gradient-accumulation-steps", str(run.accumulation), *flags,
        ]
        if run.held_out:
            command += ["--eval-data", at.rows(run.held_out)]
        if not run.lora:
            command += ["--token-ids", at.model.tokens]
        else:
            command += ["--adapter", at.lora, "--lora-learning-rate", str(args.lr)]
        printed, memory, seconds = child(command)
    events = [json.loads(line) for line in printed.splitlines()]
    header = next(event for event in events if event["event"] == "header")
    steps = [event for event in events if event["event"] == "step"]
    timed = steps[1:] or steps
    held_out = [event["loss"] for event in events if event["event"] == "eval"]
    return {
        "losses": [step["loss"] for step in steps],
        "tokens_per_second": sum(s["tokens"] for s in timed) / sum(s["seconds"] for s in timed),
        "peak_memory_bytes": memory,
        "process_seconds": seconds,
        **({"eval_loss": held_out[-1]} if held_out else {}),
        "about": {name: header[name] for name in ("precision", "instruction_set", "threads")},
    }


def peer(script, python, run, at, args):
    """One run of a peer: `script`, with the flags that it needs, by the interpreter that has its packages."""
    command = [
        python, os.path.join(HERE, script[0]), *script[1:], "--model", at.folder, "--data", at.rows(run.rows),
        "--tokens", at.model.tokens, "--dtype", run.precision, "--batch", str(run.batch), "--steps", str(args.steps),
        "--lr", str(args.lr), "--threads", str(args.threads), "--accumulation", str(run.accumulation),
    ]
    if run.lora:
        command += ["--adapter", at.lora]
    if run.held_out:
        command += ["--eval-data", at.rows(run.held_out)]
    printed, memory, seconds = child(command)
    found = json.loads(printed.strip().splitlines()[-1])
    return {**found, "peak_memory_bytes": memory, "process_seconds": seconds}


def peft(*flags):
    return lambda run, at, args: peer(("peft_peer.py", *flags), args.python, run, at, args)


def unsloth(run, at, args):
    if not args.unsloth_python:
        raise Failed("--unsloth-python, an interpreter with Unsloth, was not given")
    return peer(("unsloth_peer.py",), args.unsloth_python, run, at, args)


PROGRAMS = {
    "toktune": toktune,
    "toktune-min": lambda run, at, args: toktune(run, at, args, ("--memory-budget", "min")),
    "PEFT": peft(),
    "PEFT-checkpointing": peft("--checkpointing"),
    "PEFT-compile": peft("--compile"),
    "Unsloth": unsloth,
    "full-matrix": peft("--full"),
}
