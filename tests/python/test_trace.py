"""--trace FILE: what Perfetto reads, from every command that runs requests, even if the command is killed."""

import json
import signal
import subprocess
import time

from conftest import TINY

CHAT = TINY / "llama-chat"


def steps(events):
    return [e["name"] for e in events if e.get("ph") == "X" and e["name"].startswith("step ")]


def test_generate(cli, tmp_path):
    path = tmp_path / "trace.json"
    result = cli("generate", CHAT, "-p", "one two", "three", "--max-tokens", 6, "--ignore-eos", "--trace", path)
    assert result.returncode == 0, result.stderr
    events = json.loads(path.read_text())
    assert steps(events) == [f"step {i}" for i in range(1, len(steps(events)) + 1)] and len(steps(events)) >= 6
    tracks = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert tracks == {"steps", "request 1", "request 2"}
    decodes = [e for e in events if e["name"] == "decode"]
    assert len(decodes) == 2 * 5 and all(e["dur"] > 0 for e in decodes)


def test_run_batch_and_bench(cli, tmp_path):
    path = tmp_path / "trace.json"
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x", "max_tokens": 4, "ignore_eos": True}}
    result = cli("run-batch", "--model", CHAT, "-i", "-", "-o", "-", "--trace", path, stdin=json.dumps(line))
    assert result.returncode == 0, result.stderr
    assert len(steps(json.loads(path.read_text()))) == 4
    result = cli("bench", "throughput", TINY / "llama", "--num-prompts", 3, "--input-len", 5, "--output-len", 7, "--trace", path)
    assert result.returncode == 0, result.stderr
    assert len(steps(json.loads(path.read_text()))) == 7


def test_a_file_that_cannot_be_written_fails_before_the_model_is_loaded(cli, tmp_path):
    result = cli("generate", CHAT, "-p", "x", "--trace", tmp_path / "nowhere" / "trace.json")
    assert result.returncode == 1 and result.stdout == b""
    assert b"nowhere/trace.json: No such file or directory" in result.stderr


def test_interrupted_and_killed(binary, tmp_path):
    """Ctrl-C closes the array; a kill leaves all but the bracket, which Perfetto does not ask for."""
    for number in signal.SIGINT, signal.SIGKILL:
        path = tmp_path / f"{number}.json"
        command = [binary, "bench", "throughput", TINY / "llama", "--num-prompts", "200", "--output-len", "300", "--trace", path]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 30
            while not (path.exists() and "\"step 5\"" in path.read_text()):
                assert time.monotonic() < end and process.poll() is None
                time.sleep(0.01)
        finally:
            process.send_signal(number)
            process.wait(30)
        text = path.read_text()
        if number == signal.SIGKILL:
            text = text[:text.rindex(",\n")] + "]"  # a line may be cut
        assert len(steps(json.loads(text))) > 3
