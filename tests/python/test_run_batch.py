"""run-batch: OpenAI's batch files. Bad lines, resuming, ordering, and the shape of the answers."""

import json
import os
import random
import signal
import subprocess
import time

import pytest

from conftest import TINY

BARE = TINY / "llama"
CHAT = TINY / "llama-chat"


def request(custom_id, url="/v1/completions", **body):
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "m", **body}}


def completion(custom_id, ids, max_tokens=4, **body):
    return request(custom_id, prompt=ids, max_tokens=max_tokens, temperature=0, return_token_ids=True, **body)


def write_lines(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def batch(cli, tmp_path):
    """batch(lines, flags...) -> the results, in the file's order."""

    def run(lines, *flags, model=BARE, name="out.jsonl"):
        write_lines(tmp_path / "in.jsonl", lines)
        result = cli("run-batch", "-i", tmp_path / "in.jsonl", "-o", tmp_path / name, "--model", model, *flags)
        assert result.returncode == 0, result.stderr
        assert result.stdout == b""
        return read_lines(tmp_path / name)

    return run


def body_of(result):
    assert result["error"] is None and result["response"]["status_code"] == 200, result
    return result["response"]["body"]


def choice_of(result):
    return body_of(result)["choices"][0]


class TestShape:
    def test_a_completion(self, batch):
        [result] = batch([completion("a", [1, 2, 3], logprobs=2)])
        assert set(result) == {"id", "custom_id", "response", "error"} and result["custom_id"] == "a"
        assert set(result["response"]) == {"status_code", "request_id", "body"}
        body = body_of(result)
        assert body["object"] == "text_completion" and body["model"] == str(BARE)
        assert body["usage"]["prompt_tokens"] == 3 and body["usage"]["completion_tokens"] == 4 and body["usage"]["total_tokens"] == 7
        choice = body["choices"][0]
        assert choice["prompt_token_ids"] == [1, 2, 3] and len(choice["token_ids"]) == 4
        assert choice["text"] == "" and choice["finish_reason"] == "length"
        assert choice["logprobs"]["tokens"] == [f"token_id:{i}" for i in choice["token_ids"]]
        for token, logprob, top in zip(*(choice["logprobs"][k] for k in ("tokens", "token_logprobs", "top_logprobs"))):
            assert top[token] == logprob == max(top.values())  # greedy

    def test_echo_scores_the_prompt(self, batch):
        [result] = batch([completion("a", [5, 6, 7], max_tokens=0, echo=True, logprobs=1)])
        choice = choice_of(result)
        assert choice["logprobs"]["tokens"] == ["token_id:5", "token_id:6", "token_id:7"]
        assert choice["logprobs"]["token_logprobs"][0] is None and choice["logprobs"]["top_logprobs"][0] is None
        assert all(x < 0 for x in choice["logprobs"]["token_logprobs"][1:])
        assert choice["token_ids"] == [] and body_of(result)["usage"]["completion_tokens"] == 0

    def test_prompt_logprobs_agree_with_echo(self, batch):
        echo, named = batch([completion("a", [5, 6, 7], max_tokens=1, echo=True, logprobs=0),
                             completion("b", [5, 6, 7], max_tokens=1, prompt_logprobs=0)])
        values = [entry[str(i)]["logprob"] for i, entry in zip([6, 7], choice_of(named)["prompt_logprobs"][1:])]
        assert choice_of(named)["prompt_logprobs"][0] is None
        assert values == choice_of(echo)["logprobs"]["token_logprobs"][1:3]

    def test_lists_of_prompts_and_n(self, batch):
        [result] = batch([request("a", prompt=[[1, 2], [3]], n=2, max_tokens=3, seed=5, ignore_eos=True, return_token_ids=True)])
        choices = body_of(result)["choices"]
        assert [c["index"] for c in choices] == [0, 1, 2, 3]
        assert [c["prompt_token_ids"] for c in choices] == [[1, 2], [1, 2], [3], [3]]
        assert body_of(result)["usage"]["completion_tokens"] == 12

    def test_text_prompts_echo_and_chat(self, batch):
        text, chat = sorted(batch([
            request("a", prompt="hello", echo=True, max_tokens=3, logprobs=0),
            request("b", url="/v1/chat/completions", messages=[{"role": "user", "content": "hello"}], max_tokens=3,
                    logprobs=True, top_logprobs=2)], model=CHAT), key=lambda r: r["custom_id"])
        assert choice_of(text)["text"].startswith("hello")
        assert choice_of(text)["logprobs"]["text_offset"][0] == 0
        assert body_of(chat)["object"] == "chat.completion"
        message = choice_of(chat)["message"]
        assert message["role"] == "assistant" and isinstance(message["content"], str)
        content = choice_of(chat)["logprobs"]["content"]
        assert len(content) == body_of(chat)["usage"]["completion_tokens"]
        for entry in content:
            assert len(entry["top_logprobs"]) == 2 and bytes(entry["bytes"]).decode() == entry["token"]

    def test_stop_token_and_reason(self, batch):
        [probe] = batch([completion("p", [1, 2, 3], max_tokens=4, ignore_eos=True)], name="probe.jsonl")
        ids = choice_of(probe)["token_ids"]
        [result] = batch([completion("a", [1, 2, 3], max_tokens=4, ignore_eos=True, stop_token_ids=[ids[1]])])
        choice = choice_of(result)
        stop = ids.index(ids[1])
        assert choice["token_ids"] == ids[:stop + 1] and choice["finish_reason"] == "stop" and choice["stop_reason"] == ids[1]


class TestBadLines:
    BAD = [
        ("{not json", None, "body"),
        ("[1, 2]", None, "line"),
        (json.dumps({"method": "POST", "url": "/v1/completions", "body": {"prompt": [1]}}), None, "custom_id"),
        (json.dumps({"custom_id": 5, "method": "POST", "url": "/v1/completions", "body": {"prompt": [1]}}), None, "custom_id"),
        (json.dumps({"custom_id": "url", "method": "POST", "url": "/v1/embeddings", "body": {}}), "url", "url"),
        (json.dumps({"custom_id": "nourl", "method": "POST", "body": {}}), "nourl", "url"),
        (json.dumps({"custom_id": "get", "method": "GET", "url": "/v1/completions", "body": {}}), "get", "method"),
        (json.dumps({"custom_id": "nobody", "method": "POST", "url": "/v1/completions"}), "nobody", "body"),
        (json.dumps(request("noprompt")), "noprompt", "prompt"),
        (json.dumps(request("type", prompt=[1], max_tokens="5")), "type", "max_tokens"),
        (json.dumps(request("range", prompt=[1], top_p=2)), "range", "top_p"),
        (json.dumps(request("vocab", prompt=[10 ** 6])), "vocab", ""),
        (json.dumps(request("bias", prompt=[1], logit_bias={"1000000": 1})), "bias", "logit_bias"),
        (json.dumps(request("long", prompt=[1] * 5000)), "long", ""),
        (json.dumps(request("text", prompt="needs a tokenizer")), "text", ""),
        (json.dumps(request("chat", url="/v1/chat/completions", messages=[{"role": "user", "content": "x"}])), "chat", ""),
        (json.dumps(request("stream", prompt=[1], stream=True)), "stream", "stream"),
        (json.dumps(request("format", prompt=[1], response_format={"type": "json_object"})), "format", "response_format"),
        ('{"custom_id": "nan", "url": "/v1/completions", "body": {"prompt": [1], "temperature": NaN}}', None, "not valid JSON"),
        ("[" * 100000, None, "nested"),
    ]

    def test_each_gives_an_error_line_and_the_run_goes_on(self, batch):
        lines = [completion("first", [1, 2])] + [line for line, _, _ in self.BAD] + [completion("last", [3])]
        results = batch(lines)
        assert len(results) == len(lines)
        assert sum(r["error"] is None for r in results) == 2
        errors = [r for r in results if r["error"]]
        for (line, custom_id, field), result in zip(self.BAD, errors):
            assert result["custom_id"] == custom_id, line
            assert result["response"]["status_code"] == 400, line
            assert set(result["error"]) == {"message", "type", "param", "code"}
            assert field in result["error"]["message"], line
            assert result["response"]["body"] == {"error": result["error"]}

    def test_a_part_of_a_request_that_is_refused_leaves_nothing_behind(self, batch):
        results = batch([request("a", prompt=[[1, 2], [10 ** 6], [3]]), completion("b", [1])])
        assert [(r["custom_id"], r["response"]["status_code"]) for r in sorted(results, key=lambda r: r["custom_id"])] == [("a", 400), ("b", 200)]

    def test_blank_lines_and_windows_line_ends(self, batch):
        lines = ["", json.dumps(completion("a", [1])) + "\r", "   ", json.dumps(completion("b", [2]))]
        assert {r["custom_id"] for r in batch(lines)} == {"a", "b"}

    def test_bytes_that_are_not_utf8(self, cli, tmp_path):
        good = json.dumps(completion("good", [1])).encode()
        (tmp_path / "in").write_bytes(b'{"custom_id": "\xff", "url": "/v1/completions", "body": {"prompt": [1]}}\n\x00\n' + good)
        assert cli("run-batch", "-i", tmp_path / "in", "-o", tmp_path / "out", "--model", BARE).returncode == 0
        assert [(r["custom_id"], r["response"]["status_code"]) for r in read_lines(tmp_path / "out")] == [(None, 400), (None, 400), ("good", 200)]

    def test_no_newline_at_the_end(self, cli, tmp_path):
        (tmp_path / "in").write_text(json.dumps(completion("a", [1])))
        assert cli("run-batch", "-i", tmp_path / "in", "-o", tmp_path / "out", "--model", BARE).returncode == 0
        assert len(read_lines(tmp_path / "out")) == 1

    def test_duplicate_custom_ids_are_both_answered(self, batch):
        results = batch([completion("same", [1]), completion("same", [2]), completion("other", [3])])
        assert sorted(choice_of(r)["prompt_token_ids"][0] for r in results if r["custom_id"] == "same") == [1, 2]

    def test_empty_input(self, batch):
        assert batch([]) == []


class TestResume:
    LINES = [completion(f"r{i}", [i + 1, i + 2], max_tokens=3 + i % 5, logprobs=1) for i in range(30)]

    @staticmethod
    def content(results):
        """What has to be equal between runs: everything but ids and times."""
        def strip(result):
            body = {k: v for k, v in result["response"]["body"].items() if k not in ("id", "created", "usage")}
            return json.dumps([result["custom_id"], body], sort_keys=True)
        return sorted(map(strip, results))

    def test_cut_anywhere(self, batch, cli, tmp_path):
        full = batch(self.LINES)
        data = (tmp_path / "out.jsonl").read_bytes()
        for cut in [0, 1, len(data) // 3, data.index(b"\n") + 1, len(data) - 1] + [random.randrange(len(data)) for _ in range(3)]:
            (tmp_path / "cut.jsonl").write_bytes(data[:cut])
            result = cli("run-batch", "-i", tmp_path / "in.jsonl", "-o", tmp_path / "cut.jsonl", "--model", BARE)
            assert result.returncode == 0, result.stderr
            resumed = (tmp_path / "cut.jsonl").read_bytes()
            kept = data[:cut].rfind(b"\n") + 1
            assert resumed[:kept] == data[:kept]  # not touched
            assert self.content(map(json.loads, resumed.splitlines())) == self.content(full)

    def test_a_finished_run_needs_no_model(self, batch, cli, tmp_path):
        batch(self.LINES)
        before = (tmp_path / "out.jsonl").read_bytes()
        result = cli("run-batch", "-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--model", "/nowhere")
        assert result.returncode == 0 and b"nothing is left" in result.stderr
        assert (tmp_path / "out.jsonl").read_bytes() == before

    def test_duplicates_and_broken_lines_are_matched_by_their_line(self, batch, tmp_path, cli):
        lines = ["{broken", completion("same", [1], max_tokens=9), completion("same", [2], max_tokens=1), "{broken too"]
        full = batch(lines)
        by_prompt = lambda r: r["error"] is None and choice_of(r)["prompt_token_ids"] == [2]
        kept = next(r for r in full if by_prompt(r))
        write_lines(tmp_path / "out.jsonl", [kept])
        result = cli("run-batch", "-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--model", BARE)
        assert result.returncode == 0
        assert self.content(read_lines(tmp_path / "out.jsonl")) == self.content(full)

    def test_results_of_another_program_are_matched_by_custom_id(self, batch, tmp_path):
        write_lines(tmp_path / "out.jsonl", [{"id": "vllm-1", "custom_id": "r3", "response": {}, "error": None}])
        results = batch(self.LINES)
        assert len(results) == len(self.LINES) and results[0]["id"] == "vllm-1"
        assert sorted(r["custom_id"] for r in results) == sorted(l["custom_id"] for l in self.LINES)

    def test_overwrite_starts_again(self, batch):
        batch(self.LINES)
        assert [r["custom_id"] for r in batch(self.LINES[:2], "--overwrite")] and len(batch(self.LINES[:2], "--overwrite")) == 2

    def test_a_changed_line_is_noticed_before_anything_is_run(self, batch, cli, tmp_path):
        batch(self.LINES)
        before = (tmp_path / "out.jsonl").read_bytes()
        write_lines(tmp_path / "in.jsonl", [completion("new", [9])] + self.LINES[1:])
        result = cli("run-batch", "-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--model", BARE)
        assert result.returncode == 1 and b"line 1" in result.stderr and b"--overwrite" in result.stderr
        assert (tmp_path / "out.jsonl").read_bytes() == before

    @pytest.mark.parametrize("content", [b"notes of mine\nmore\n", b"no newline at all", b'{"some": "json"}\n', b"\x00\x01\n\x02"])
    def test_a_file_that_holds_something_else_is_left_alone(self, cli, tmp_path, content):
        write_lines(tmp_path / "in.jsonl", self.LINES)
        (tmp_path / "out.jsonl").write_bytes(content)
        result = cli("run-batch", "-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--model", BARE)
        assert result.returncode == 1 and b"no batch result" in result.stderr
        assert (tmp_path / "out.jsonl").read_bytes() == content

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted_and_continued(self, binary, cli, tmp_path, number):
        lines = [completion(f"r{i}", [i % 90 + 1], max_tokens=400, ignore_eos=True) for i in range(200)]
        write_lines(tmp_path / "in.jsonl", lines)
        command = [binary, "run-batch", "-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--model", str(BARE),
                   "--max-num-seqs", "4"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            end = time.monotonic() + 60
            while time.monotonic() < end and not ((tmp_path / "out.jsonl").exists() and (tmp_path / "out.jsonl").stat().st_size):
                time.sleep(0.01)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number and b"goes on from there" in err
        data = (tmp_path / "out.jsonl").read_bytes()
        assert data.endswith(b"\n")
        kept = len(data.splitlines())
        assert 0 < kept < 200
        short = [completion(f"r{i}", [i % 90 + 1], max_tokens=400, ignore_eos=True) for i in range(200)][:kept + 3]
        write_lines(tmp_path / "in.jsonl", short)
        result = cli("run-batch", "-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--model", BARE)
        assert result.returncode == 0, result.stderr
        assert {f"r{i}" for i in range(kept + 3)} <= {r["custom_id"] for r in read_lines(tmp_path / "out.jsonl")}


class TestFilesAndStreams:
    def test_results_do_not_depend_on_order_or_company(self, batch):
        lines = TestResume.LINES
        expected = TestResume.content(batch(lines))
        shuffled = random.sample(lines, len(lines))
        assert TestResume.content(batch(shuffled, "--overwrite", "--max-num-seqs", "3", "--block-size", "1")) == expected

    def test_stdin_and_stdout(self, cli):
        lines = "".join(json.dumps(line) + "\n" for line in TestResume.LINES)
        result = cli("run-batch", "-i", "-", "-o", "-", "--model", BARE, stdin=lines)
        assert result.returncode == 0
        assert len([json.loads(line) for line in result.stdout.splitlines()]) == len(TestResume.LINES)

    def test_a_slow_pipe_is_answered_as_it_comes(self, binary):
        command = [binary, "run-batch", "-i", "-", "-o", "-", "--model", str(BARE), "-q"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            for i in range(3):
                process.stdin.write((json.dumps(completion(str(i), [1, 2])) + "\n").encode())
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["custom_id"] == str(i)
            process.stdin.close()
            assert process.wait(60) == 0

    def test_full_disk(self, cli, tmp_path):
        write_lines(tmp_path / "in.jsonl", TestResume.LINES)
        result = cli("run-batch", "-i", tmp_path / "in.jsonl", "-o", "/dev/full", "--model", BARE)
        assert result.returncode == 1 and b"/dev/full: No space left on device" in result.stderr

    def test_disk_that_fills_up_keeps_whole_lines_only(self, binary, cli, tmp_path):
        write_lines(tmp_path / "in.jsonl", TestResume.LINES)
        # A limit on the file's size stands in for a full disk: the write that crosses it is cut short.
        limited = ["bash", "-c", "ulimit -f 8; trap '' XFSZ; exec \"$@\"", "bash"]
        command = [binary, "run-batch", "-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--model", str(BARE)]
        result = subprocess.run([*limited, *command], stderr=subprocess.PIPE, timeout=60)
        assert result.returncode == 1 and b"out.jsonl" in result.stderr
        data = (tmp_path / "out.jsonl").read_bytes()
        assert 0 < len(data) <= 8192 and data.endswith(b"\n")
        for line in data.splitlines():
            json.loads(line)
        assert cli(*command[1:]).returncode == 0
        assert len(read_lines(tmp_path / "out.jsonl")) == len(TestResume.LINES)

    def test_closed_pipe(self, binary, tmp_path):
        write_lines(tmp_path / "in.jsonl", TestResume.LINES * 10)
        command = [binary, "run-batch", "-i", str(tmp_path / "in.jsonl"), "-o", "-", "--model", str(BARE), "-q"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.readline()
            process.stdout.close()
            assert process.wait(60) == 141 and process.stderr.read() == b""

    @pytest.mark.parametrize("source,target,word", [("none.jsonl", "out.jsonl", "none.jsonl"), ("in.jsonl", "no/out.jsonl", "no/out.jsonl"),
                                                    (".", "out.jsonl", "folder"), ("in.jsonl", "in.jsonl", "input file")])
    def test_wrong_files(self, cli, tmp_path, source, target, word):
        write_lines(tmp_path / "in.jsonl", TestResume.LINES)
        before = (tmp_path / "in.jsonl").read_bytes()
        result = cli("run-batch", "-i", tmp_path / source, "-o", tmp_path / target, "--model", BARE)
        assert result.returncode in (1, 2) and word in result.stderr.decode()
        assert (tmp_path / "in.jsonl").read_bytes() == before

    def test_flags_are_required(self, cli):
        assert cli("run-batch", "--model", BARE).returncode == 2
        assert cli("run-batch", "-i", "x", "--model", BARE).returncode == 2

    def test_progress_says_how_far_and_how_fast(self, binary, tmp_path):
        """On a terminal: a bar with tokens/s and the time left."""
        pty = pytest.importorskip("pty")
        write_lines(tmp_path / "in.jsonl", [completion(str(i), [1], max_tokens=300, ignore_eos=True) for i in range(60)])
        main, terminal = pty.openpty()
        command = [binary, "run-batch", "-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--model", str(BARE),
                   "--max-num-seqs", "2"]
        with subprocess.Popen(command, stderr=terminal) as process:
            os.close(terminal)
            seen = b""
            while True:
                try:
                    chunk = os.read(main, 4096)
                except OSError:
                    break
                if not chunk:
                    break
                seen += chunk
            assert process.wait(60) == 0
        os.close(main)
        for word in (b"[#", b"of 60 requests", b"tokens/s", b"ETA"):
            assert word in seen, seen[-2000:]
