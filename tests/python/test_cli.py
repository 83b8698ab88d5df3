"""The command line as a user meets it: help, wrong flags, wrong models, exit codes, pipes that close, disks that are full."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import TINY

CHAT = TINY / "llama-chat"  # has a tokenizer and a chat template
BARE = TINY / "llama"       # token ids only
COMMANDS = ["generate", "chat", "run-batch", "bench throughput", "bench latency", "bench serve",
            "inspect", "tokenize", "template", "pull"]


def error_line(result):
    """The message of a failed command: one line on stderr, nothing on stdout."""
    lines = [line for line in result.stderr.decode().splitlines() if line.startswith("nano-vllm: error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0].removeprefix("nano-vllm: error: ")


def wait_for_bytes(process, count=1):
    """Reads some of a running process's stdout, so that it is surely under way."""
    data = os.read(process.stdout.fileno(), count)
    assert data
    return data


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("timed out")


class TestHelp:
    def test_overview_lists_exactly_what_exists(self, cli):
        result = cli("--help")
        assert result.returncode == 0 and result.stderr == b""
        for command in COMMANDS:
            assert f"\n  {command} " in result.stdout.decode()

    @pytest.mark.parametrize("command", COMMANDS)
    def test_help_and_version_everywhere(self, cli, command):
        result = cli(*command.split(), "--help")
        assert result.returncode == 0 and result.stdout.startswith(f"Usage: nano-vllm {command}".encode())
        assert result.stderr == b""
        assert max(map(len, result.stdout.decode().splitlines())) <= 110
        assert cli(*command.split(), "--version").stdout == cli("--version").stdout != b""

    def test_no_command(self, cli):
        result = cli()
        assert result.returncode == 2 and result.stdout == b"" and b"Commands:" in result.stderr

    @pytest.mark.parametrize("words", [["nonsense"], ["bench"], ["bench", "nothing"]])
    def test_unknown_command_names_those_that_exist(self, cli, words):
        result = cli(*words)
        assert result.returncode == 2 and result.stdout == b""
        message = error_line(result)
        assert message.startswith(" ".join(words) + ":")
        for command in COMMANDS:
            assert command in message


class TestFlags:
    @pytest.mark.parametrize("flag,value,allowed", [
        ("--block-size", "0", "1"),
        ("--block-size", "x", "integer"),
        ("--max-model-len", "-5", "0"),
        ("--max-num-seqs", "0", "1"),
        ("--max-num-batched-tokens", "0", "1"),
        ("--kv-cache-memory-bytes", "2Elephants", "2GiB"),
        ("--kv-cache-dtype", "int3", "bfloat16"),
        ("--dtype", "half", "float32"),
        ("--speculative-config", "ngram", "not a JSON object"),
        ("--quantization", "awq", "int8"),
        ("--device", "tpu", "cuda"),
        ("--gpu-memory-utilization", "1.5", "1"),
        ("--threads", "-1", "0"),
        ("--tensor-parallel-size", "0", "1"),
        ("--temperature", "-1", "0"),
        ("--temperature", "nan", "number"),
        ("--top-p", "0", "1"),
        ("--top-k", "-2", "-1"),
        ("--min-p", "2", "1"),
        ("--presence-penalty", "3", "2"),
        ("--frequency-penalty", "-3", "2"),
        ("--repetition-penalty", "0", "0"),
        ("--logit-bias", "[1]", "{"),
        ("--logit-bias", '{"a": 1}', "{"),
        ("--max-tokens", "-2", "-1"),
        ("--max-tokens", "1.5", "integer"),
        ("--seed", "-1", "0"),
        ("--n", "0", "1"),
        ("--stop-token-ids", "x", "integer"),
    ])
    def test_wrong_value_names_flag_value_and_what_is_allowed(self, cli, flag, value, allowed):
        result = cli("generate", CHAT, "-p", "x", flag, value)
        assert result.returncode == 2 and result.stdout == b""
        message = error_line(result)
        assert message.startswith(flag + ":") and value.lstrip("-") in message and allowed in message

    @pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a driver")
    def test_cuda_without_a_driver(self, cli):
        result = cli("generate", CHAT, "-p", "x", "--device", "cuda")
        assert result.returncode == 2 and result.stdout == b""
        assert error_line(result).startswith("--device: is cuda, but this machine has no NVIDIA driver")

    def test_a_plugin_that_is_none(self, cli):
        result = cli("generate", CHAT, "-p", "x", "--device", "cuda", env={**os.environ, "NANO_VLLM_CUDA_PLUGIN": "/dev/null"})
        assert result.returncode == 2 and result.stdout == b""
        assert error_line(result).startswith("--device: is cuda, but the plugin of NANO_VLLM_CUDA_PLUGIN cannot be loaded")

    @pytest.mark.parametrize("config,complaint", [
        ({"method": "eagle", "num_speculative_tokens": 3}, 'method is "eagle", allowed is "ngram"'),
        ({"method": "ngram"}, "num_speculative_tokens is missing"),
        ({"method": "ngram", "num_speculative_tokens": 0}, "num_speculative_tokens is 0, allowed is an integer from 1 to 256"),
        ({"method": "ngram", "num_speculative_tokens": 3, "draft": 1}, 'unknown key "draft", allowed are method,'),
        ({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 4},
         "prompt_lookup_min is 4, more than prompt_lookup_max 2"),
    ])
    def test_wrong_speculative_config_names_the_key(self, cli, config, complaint):
        result = cli("generate", CHAT, "-p", "x", "--speculative-config", json.dumps(config))
        assert result.returncode == 2 and result.stdout == b""
        assert error_line(result).startswith("--speculative-config: ") and complaint in error_line(result)

    @pytest.mark.parametrize("command", ["chat", "run-batch", "serve", "bench throughput", "bench latency",
            "inspect"])
    def test_engine_flags_are_everywhere(self, cli, command):
        result = cli(*command.split(), CHAT, "--block-size", "none")
        assert result.returncode == 2 and error_line(result).startswith("--block-size:")

    def test_unknown_flag(self, cli):
        result = cli("generate", CHAT, "-p", "x", "--nonsense")
        assert result.returncode == 2 and error_line(result).startswith("--nonsense:")

    def test_missing_value(self, cli):
        for words in (["-p"], ["-p", "--json"], ["--temperature"]):
            result = cli("generate", CHAT, *words)
            assert result.returncode == 2 and "needs a value" in error_line(result)

    def test_missing_prompt(self, cli):
        result = cli("generate", CHAT)
        assert result.returncode == 2 and "-p TEXT" in error_line(result)

    def test_two_models(self, cli):
        result = cli("generate", CHAT, BARE, "-p", "x")
        assert result.returncode == 2 and "one MODEL" in error_line(result)

    def test_model_after_the_prompts_is_pointed_out(self, cli):
        result = cli("generate", "-p", "x", CHAT)
        assert result.returncode == 2 and "before -p" in error_line(result)

    def test_spellings(self, cli):
        """--flag value, --flag=value, underscores, --model, and MODEL all say the same."""
        base = ["--temperature", "0", "--max-tokens", "4", "-q", "-p", "hello"]
        expected = cli("generate", CHAT, *base).stdout
        assert cli("generate", "--model", CHAT, *base).stdout == expected
        assert cli("generate", f"--model={CHAT}", "--temperature=0", "--max_tokens=4", "-q", "--prompt=hello").stdout == expected
        assert cli("generate", *base, "--max_num_seqs", "3", "--", CHAT).stdout == expected


class TestWrongModels:
    def check(self, cli, path, *words):
        for command in (["generate", path, "-p", "x"], ["inspect", path], ["tokenize", path]):
            result = cli(*command)
            assert result.returncode == 1 and result.stdout == b"", command
            message = error_line(result)
            for word in words:
                assert word in message, command

    def test_no_such_file(self, cli, tmp_path):
        self.check(cli, tmp_path / "none.gguf", "none.gguf")

    def test_zero_byte_gguf(self, cli, tmp_path):
        (tmp_path / "zero.gguf").touch()
        self.check(cli, tmp_path / "zero.gguf", "zero.gguf")

    def test_empty_folder(self, cli, tmp_path):
        self.check(cli, tmp_path, str(tmp_path))

    def test_truncated_weights(self, cli, tmp_path):
        for file in BARE.iterdir():
            data = file.read_bytes()
            (tmp_path / file.name).write_bytes(data[:-100] if file.suffix == ".safetensors" else data)
        result = cli("inspect", tmp_path)
        assert result.returncode == 1 and ".safetensors" in error_line(result)

    def test_unreadable_config(self, cli, tmp_path):
        for file in BARE.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "config.json").write_text("{")
        result = cli("inspect", tmp_path)
        assert result.returncode == 1 and "config.json" in error_line(result)

    def test_generate_without_tokenizer_says_what_to_use(self, cli):
        result = cli("generate", BARE, "-p", "x")
        assert result.returncode == 1 and "run-batch" in error_line(result)

    def test_chat_without_template(self, cli):
        result = cli("chat", BARE)
        assert result.returncode == 1 and "chat template" in error_line(result)


class TestGenerate:
    BASE = ("generate", CHAT, "--temperature", "0", "--max-tokens", "6")

    def test_stdout_is_the_text_and_stderr_the_figures(self, cli):
        result = cli(*self.BASE, "-p", "hello")
        assert result.returncode == 0 and result.stdout.endswith(b"\n")
        for word in ("prompt:", "answer: 6 tokens", "first token", "peak memory", "weights", "KV cache"):
            assert word in result.stderr.decode()
        assert cli(*self.BASE, "-p", "hello", "-q").stderr == b""

    def test_several_prompts_print_in_order(self, cli):
        prompts = ["one", "a much longer second prompt that takes more steps " * 4, "three"]
        alone = [cli(*self.BASE, "-q", "-p", p).stdout for p in prompts]
        assert cli(*self.BASE, "-q", "-p", *prompts, "--max-num-batched-tokens", "16").stdout == b"".join(alone)
        assert cli(*self.BASE, "-q", "-p", prompts[0], "-p", prompts[1], "-p", prompts[2]).stdout == b"".join(alone)

    def test_json(self, cli):
        result = cli(*self.BASE, "--ignore-eos", "-q", "--json", "--logprobs", "2", "-p", "one", "two")
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [line["prompt"] for line in lines] == ["one", "two"]
        text = cli(*self.BASE, "--ignore-eos", "-q", "-p", "one").stdout.decode()
        assert lines[0]["text"].rstrip("\n") == text.rstrip("\n")
        assert len(lines[0]["token_ids"]) == 6 == len(lines[0]["logprobs"]["tokens"])
        assert lines[0]["finish_reason"] == "length" and lines[0]["prompt_token_ids"]

    def test_n_completions(self, cli):
        result = cli("generate", CHAT, "--max-tokens", "6", "--n", "3", "--seed", "1", "-q", "--json", "-p", "x")
        assert [json.loads(line)["index"] for line in result.stdout.splitlines()] == [0, 1, 2]

    def test_seed_repeats(self, cli):
        run = lambda seed: cli("generate", CHAT, "--temperature", "2", "--seed", seed, "-q", "--json", "-p", "x").stdout
        assert run(7) == run(7) != run(8)

    def test_file_and_stdin(self, cli, tmp_path):
        (tmp_path / "prompt.txt").write_text("hello")
        expected = cli(*self.BASE, "-q", "-p", "hello").stdout
        assert cli(*self.BASE, "-q", "-f", tmp_path / "prompt.txt").stdout == expected
        assert cli(*self.BASE, "-q", "-f", "-", stdin="hello").stdout == expected
        result = cli(*self.BASE, "-f", tmp_path / "none.txt")
        assert result.returncode == 1 and "none.txt" in error_line(result)

    def test_chat_template_is_applied_unless_raw(self, cli):
        ids = lambda *flags: json.loads(cli(*self.BASE, "-q", "--json", "-p", "hello", *flags).stdout)["prompt_token_ids"]
        chat = json.loads(cli("tokenize", CHAT, "--chat", stdin='[{"role": "user", "content": "hello"}]').stdout)
        assert ids() == chat
        assert ids("--raw") == json.loads(cli("tokenize", CHAT, stdin="hello").stdout) != chat

    def test_prompt_longer_than_the_context(self, cli):
        result = cli(*self.BASE, "--max-model-len", "64", "-p", "word " * 500)
        assert result.returncode == 2 and "64" in error_line(result)

    def test_closed_pipe_is_quiet(self, binary):
        command = [binary, *map(str, self.BASE[:2]), "-p", "x", "--ignore-eos", "--max-tokens", "2000", "-q"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            wait_for_bytes(process)
            process.stdout.close()
            assert process.wait(60) == 141
            assert process.stderr.read() == b""

    def test_full_disk(self, cli):
        with open("/dev/full", "wb") as full:
            result = cli(*self.BASE, "-p", "x", stdout=full)
        assert result.returncode == 1
        assert "No space left on device" in result.stderr.decode()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupt_keeps_what_was_printed(self, binary, number):
        command = [binary, *map(str, self.BASE[:2]), "-p", "x", "--ignore-eos", "--max-tokens", "2000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            begin = wait_for_bytes(process)
            process.send_signal(number)
            rest, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert (begin + rest).endswith(b"\n") and b"peak memory" in err


class TestChat:
    def test_turns_from_a_pipe(self, cli):
        result = cli("chat", CHAT, "--max-tokens", "5", "--temperature", "0", "--json", stdin="hello\nagain\n/reset\nhello\n/exit\nx\n")
        assert result.returncode == 0
        turns = [json.loads(line) for line in result.stdout.splitlines()]
        assert len(turns) == 3
        assert turns[0] == turns[2] and turns[1]["prompt_tokens"] > turns[0]["prompt_tokens"]

    def test_system_message(self, cli):
        run = lambda *flags, stdin: [json.loads(l) for l in cli("chat", CHAT, "--max-tokens", "5", "--json", *flags, stdin=stdin).stdout.splitlines()]
        assert run("--system", "Be brief.", stdin="hi")[0]["prompt_tokens"] == run(stdin="/system Be brief.\nhi")[0]["prompt_tokens"]

    def test_context_overflow_is_said_clearly(self, cli):
        result = cli("chat", CHAT, "--max-model-len", "64", stdin="word " * 300)
        assert result.returncode == 1 and "/reset" in error_line(result) and "64" in error_line(result)

    def test_interrupt_stops_the_answer_and_not_the_program(self, binary):
        command = [binary, "chat", str(CHAT), "--ignore-eos", "--max-num-seqs", "1"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            wait_for_bytes(process)
            process.send_signal(signal.SIGINT)
            # The next turn is still answered, and the end of the input ends the program as if nothing had happened.
            out, err = process.communicate(b"/reset\n/exit\n", timeout=60)
        assert process.returncode == 0 and b"stopped" in err


class TestTokenizeAndTemplate:
    def test_round_trip(self, cli):
        text = "Hello, wörld! 🙂\n  two lines"
        ids = cli("tokenize", CHAT, stdin=text)
        assert ids.returncode == 0
        assert cli("tokenize", CHAT, "--decode", "--skip-special-tokens", stdin=ids.stdout).stdout.decode() == text

    def test_ids_equal_hugging_face(self, cli):
        tokenizers = pytest.importorskip("tokenizers")
        oracle = tokenizers.Tokenizer.from_file(str(CHAT / "tokenizer.json"))
        for text in ("", "hello world", "naïve café — 北京", "a\n\n b"):
            assert json.loads(cli("tokenize", CHAT, "--no-add-special-tokens", stdin=text).stdout) == \
                oracle.encode(text, add_special_tokens=False).ids
            assert json.loads(cli("tokenize", CHAT, stdin=text).stdout) == oracle.encode(text).ids

    def test_chat_takes_an_array_or_an_object(self, cli):
        messages = [{"role": "user", "content": "hi"}]
        array = cli("tokenize", CHAT, "--chat", stdin=json.dumps(messages))
        assert array.returncode == 0 and array.stdout == cli("tokenize", CHAT, "--chat", stdin=json.dumps({"messages": messages})).stdout
        assert array.stdout != cli("tokenize", CHAT, "--chat", "--no-add-generation-prompt", stdin=json.dumps(messages)).stdout

    @pytest.mark.parametrize("flag,stdin", [("--decode", "x"), ("--decode", '{"a": 1}'), ("--decode", "[-1]"), ("--decode", '["a"]'),
                                            ("--chat", "[]"), ("--chat", "5"), ("--chat", "[{}]")])
    def test_wrong_input(self, cli, flag, stdin):
        result = cli("tokenize", CHAT, flag, stdin=stdin)
        assert result.returncode in (1, 2) and error_line(result)

    def test_template_renders_byte_for_byte(self, cli, tmp_path):
        jinja2 = pytest.importorskip("jinja2")
        source = "{% for m in messages %}<{{ m.role }}> {{ m.content | trim }}\n{% endfor %}{{ extra | tojson }}"
        context = {"messages": [{"role": "user", "content": " ü "}, {"role": "a", "content": "b"}], "extra": {"z": [1, 2.5], "a": None}}
        (tmp_path / "t.jinja").write_text(source)
        result = cli("template", tmp_path / "t.jinja", stdin=json.dumps(context))
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        assert result.stdout.decode() == environment.from_string(source).render(**context)

    def test_template_errors(self, cli, tmp_path):
        assert cli("template").returncode == 2
        assert cli("template", tmp_path / "none").returncode == 1
        (tmp_path / "t.jinja").write_text("{{ raise_exception('no roles') }}")
        result = cli("template", tmp_path / "t.jinja", stdin="{}")
        assert result.returncode == 1 and "no roles" in error_line(result)
        assert cli("template", tmp_path / "t.jinja", stdin="[]").returncode == 1


class TestInspectAndBench:
    def test_inspect(self, cli):
        report = json.loads(cli("inspect", CHAT, "--json").stdout)
        config = json.loads((CHAT / "config.json").read_text())
        assert report["num_layers"] == config["num_hidden_layers"] and report["vocab_size"] == config["vocab_size"]
        assert report["file_bytes"] == sum(t["bytes"] for t in report["tensors"])
        memory = report["memory"]
        assert memory["kv_cache_bytes"] == memory["num_kv_blocks"] * memory["block_size"] * memory["kv_bytes_per_token"]
        text = cli("inspect", CHAT).stdout.decode()
        assert report["tensors"][0]["name"] in text and "KV cache" in text
        assert report["backend"] in text

    def test_inspect_names_the_instruction_set(self, cli):
        scalar = {**os.environ, "NANO_VLLM_FORCE_ISA": "scalar"}
        report = json.loads(cli("inspect", CHAT, "--json", "--threads", "1", env=scalar).stdout)
        assert report["backend"] == "cpu (scalar, 1 thread)"
        result = cli("inspect", CHAT, env={**os.environ, "NANO_VLLM_FORCE_ISA": "sse9"})
        assert result.returncode == 2 and "NANO_VLLM_FORCE_ISA: 'sse9'" in error_line(result)

    def test_throughput(self, cli, tmp_path):
        result = cli("bench", "throughput", BARE, "--num-prompts", "6", "--input-len", "20", "--output-len", "5",
                     "--output-json", tmp_path / "r.json")
        assert result.returncode == 0 and result.stdout.startswith(b"Throughput: ")
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["total_input_tokens"] == 120 and report["total_output_tokens"] == 30
        assert report["tokens_per_second"] == pytest.approx(150 / report["elapsed_time"])

    def test_random_lengths_repeat_with_the_seed(self, cli):
        run = lambda seed: json.loads(cli("bench", "throughput", BARE, "--num-prompts", "8", "--min-input-len", "4", "--input-len", "30",
                                          "--min-output-len", "1", "--output-len", "9", "--seed", seed, "--json").stdout)["total_num_tokens"]
        assert run(1) == run(1)
        assert len({run(seed) for seed in range(4)}) > 1

    def test_latency(self, cli):
        report = json.loads(cli("bench", "latency", BARE, "--batch-size", "2", "--input-len", "8", "--output-len", "4",
                                "--num-iters", "3", "--json").stdout)
        assert len(report["latencies"]) == 3
        assert report["avg_latency"] == pytest.approx(sum(report["latencies"]) / 3)

    def test_prompts_from_a_file(self, cli, tmp_path):
        lines = [{"prompt": [1, 2, 3], "output_tokens": 4}, {"prompt": [5] * 7}, {"prompt": [9], "output_tokens": 1}]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        run = lambda *flags: cli("bench", "throughput", BARE, "--dataset-name", "custom", "--dataset-path", tmp_path / "in.jsonl",
                                 "--output-len", "6", "--json", *flags)
        report = json.loads(run().stdout)
        assert (report["num_requests"], report["total_input_tokens"], report["total_output_tokens"]) == (3, 11, 11)
        assert json.loads(run("--num-prompts", "2").stdout)["total_input_tokens"] == 10
        assert len(json.loads(run("--num-iters", "3").stdout)["elapsed_times"]) == 3
        (tmp_path / "in.jsonl").write_text('{"prompt": [1]}\n{"prompt": [1000000]}\n')
        result = run()
        assert result.returncode == 1 and "line 2" in error_line(result)

    def test_times_of_first_and_further_tokens(self, cli):
        report = json.loads(cli("bench", "latency", BARE, "--batch-size", "3", "--input-len", "8", "--output-len", "40",
                                "--num-iters", "3", "--json").stdout)
        assert 0 < report["median_ttft_ms"] / 1e3 < report["percentiles"]["50"]
        assert report["decode_tokens_per_second"] == pytest.approx(3e3 / report["median_tpot_ms"], rel=0.5)
        assert report["peak_memory_bytes"] > report["weights_bytes"] > 0 and report["load_seconds"] > 0

    def test_a_cached_prefix_comes_sooner(self, cli):
        flags = ["bench", "latency", BARE, "--batch-size", "1", "--input-len", "4", "--output-len", "1", "--num-iters", "5",
                 "--random-prefix-len", "240", "--json"]
        first = lambda *more: json.loads(cli(*flags, *more).stdout)["median_ttft_ms"]
        assert first("--enable-prefix-caching") < first() / 2

    def test_too_long_for_the_context(self, cli):
        result = cli("bench", "throughput", BARE, "--input-len", "100000")
        assert result.returncode == 2 and "--max-model-len" in error_line(result)

    def test_full_disk(self, cli):
        result = cli("bench", "latency", BARE, "--num-iters", "1", "--output-len", "2", "--output-json", "/dev/full")
        assert result.returncode == 1 and "No space left on device" in error_line(result)

    def test_interrupt(self, binary):
        command = [binary, "bench", "latency", str(BARE), "--num-iters", "100000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130 and process.stdout.read() == b""
