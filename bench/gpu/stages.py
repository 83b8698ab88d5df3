"""Stages: one after the other, each within its own time and what is left of the whole; one that fails stops no other."""

import json
import os
import signal
import subprocess
import time


class Stages:
    def __init__(self, seconds, say=print):
        self.end = time.monotonic() + seconds
        self.results = {}  # name -> {"seconds", "ok", "why", "figures"}, in order
        self.say = say

    def run(self, name, seconds, work):
        """work(limit) returns a dict of figures, or raises. Returns the figures, or None."""
        start = time.monotonic()
        limit = min(seconds, self.end - start)
        result = {"ok": False, "why": "", "figures": {}}
        if limit < 1:
            result["why"] = "no time was left"
        else:
            try:
                result["figures"] = work(limit) or {}
                result["ok"] = True
            except Exception as error:  # whatever it is, the next stage may do better
                result["why"] = f"{type(error).__name__}: {error}"
        result["seconds"] = time.monotonic() - start
        self.results[name] = result
        self.say(f"{name}: {'done' if result['ok'] else 'FAILED, ' + result['why'][:300]} in {result['seconds']:.1f} s")
        return result["figures"] if result["ok"] else None


def run_command(command, limit, env=None):
    """(exit code, stdout, stderr). A command that takes longer is killed with all that it started."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               errors="replace", start_new_session=True, env={**os.environ, **(env or {})})
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise TimeoutError(f"over {limit:.0f} s: {' '.join(map(str, command))}") from None
    return process.returncode, out, err


def run_json(command, limit, env=None):
    """The JSON that a command prints."""
    code, out, err = run_command(command, limit, env)
    if code:
        raise RuntimeError(f"exit code {code}: {err.strip()[-800:]}")
    return json.loads(out[out.index("{"):])
