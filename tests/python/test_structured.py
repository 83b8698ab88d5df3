"""Structured output and tool calls, through run-batch: a random model that must keep to a form keeps to it.

The oracles are jsonschema, Python's re and json; nothing of them is shared with the engine.
"""

import json
import pathlib
import re
import shutil

import batch_driver
import jsonschema
import pytest
from test_chat_template import template_folder

SCHEMAS = {
    "person": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["red", "green", 3, None]}, "minItems": 1, "maxItems": 3},
            "address": {"type": "object", "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}}, "required": ["zip"],
                        "additionalProperties": False},
        },
        "required": ["name", "age", "tags", "address"],
        "additionalProperties": False,
    },
    "choice of types": {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"const": "only this"}, {"type": "integer", "minimum": 5, "maximum": 70}]},
    "references": {
        "$defs": {"node": {"type": "object", "properties": {"v": {"type": "boolean"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                           "required": ["v", "next"], "additionalProperties": False}},
        "$ref": "#/$defs/node",
    },
    "formats": {"type": "object", "properties": {"day": {"type": "string", "format": "date"}, "id": {"type": "string", "format": "uuid"}},
                "required": ["day", "id"], "additionalProperties": False},
    "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, {"enum": ["x", "y"]}], "items": False, "minItems": 2},
}
REGEXES = [r"[0-9]{4}-[01][0-9]-[0-3][0-9]", r"(yes|no|maybe)( please){0,2}", r"[A-Z][a-z]{2,8}", r"\d{1,3}(\.\d{1,3}){3}", r"[^a-zA-Z\n\"]{5}", r"\w+@\w+\.(com|org)"]
CHOICES = ["positive", "negative", "neither\nof \"both\"", "ünklar"]
GRAMMAR = r'''root ::= term (("+" | "-") term){0,3}
term ::= [1-9] [0-9]{0,2} | "(" root ")"
'''


def test_forms():
    """Every form, greedy and sampled, alone in one batch; whatever ended is right, and the short ones all end."""
    bodies, checks = [], []

    def ask(check, must_end=True, **fields):
        for seed in range(4):
            bodies.append({"prompt": f"Answer {seed}:", "max_tokens": 400, "temperature": 0 if seed == 0 else 1.0, "seed": seed, **fields})
            checks.append((check, must_end))

    def valid(schema):
        return lambda text: jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator,
                                                format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)

    for name, schema in SCHEMAS.items():
        must_end = name != "references"
        ask(valid(schema), must_end, structured_outputs={"json": schema, "disable_any_whitespace": True})
        ask(valid(schema), False, structured_outputs={"json": json.dumps(schema)})
        ask(valid(schema), False, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}})
    for regex in REGEXES:
        endless = "+" in regex
        ask(lambda text, regex=regex: full_match(regex, text), not endless, structured_outputs={"regex": regex})
    ask(lambda text: full_match(REGEXES[0], text), guided_regex=REGEXES[0])
    ask(lambda text: in_list(text, CHOICES), structured_outputs={"choice": CHOICES})
    ask(lambda text: in_list(text, CHOICES), guided_choice=CHOICES)
    ask(lambda text: full_match(r"[0-9()+-]+", text) and eval(text), False, structured_outputs={"grammar": GRAMMAR})
    ask(lambda text: isinstance(json.loads(text), dict) or pytest.fail(text), False, response_format={"type": "json_object"})
    ask(lambda text: isinstance(json.loads(text), dict) or pytest.fail(text), False, structured_outputs={"json_object": True})

    ended = 0
    for body, (check, must_end), result in zip(bodies, checks, batch_driver.run_batch(batch_driver.TINY / "llama-chat", bodies)):
        choice = result["choices"][0]
        assert choice["finish_reason"] == "stop" or not must_end, (body, choice)
        if choice["finish_reason"] == "stop":
            check(choice["text"])
            ended += 1
    assert ended > len(bodies) * 0.6, f"{ended} of {len(bodies)}"


def full_match(regex, text):
    assert re.fullmatch(regex, text), (regex, text)
    return True


def in_list(text, texts):
    assert text in texts


def test_beside_other_fields():
    """min_tokens and ignore_eos do not keep a complete text going; stop strings, n, logprobs and preemption work as ever."""
    yes_no = {"structured_outputs": {"choice": ["yes", "no"]}, "prompt": "Well?", "max_tokens": 40}
    letters = {"structured_outputs": {"regex": "[ab]{30}"}, "prompt": "Well?", "max_tokens": 60, "temperature": 1.0, "seed": 3}
    bodies = [
        {**yes_no, "min_tokens": 20},
        {**yes_no, "ignore_eos": True},
        {**letters, "stop": ["ab"]},
        {**letters, "n": 5, "logprobs": 3},
        {**letters, "structured_outputs": {"regex": "[ab]{0,200}"}, "min_tokens": 25, "max_tokens": 200},
        {**letters, "logit_bias": {"66": -100}, "presence_penalty": 1, "repetition_penalty": 1.3, "top_k": 3, "top_p": 0.7, "min_p": 0.1},
        {**letters, "max_tokens": 7},
        {**letters, "prompt_logprobs": 1, "max_tokens": 0, "echo": True},
    ]
    results = [r["choices"] for r in batch_driver.run_batch(batch_driver.TINY / "llama-chat", bodies)]
    for i in (0, 1):
        assert results[i][0]["text"] in ("yes", "no") and results[i][0]["finish_reason"] == "stop"
    assert full_match("[ab]*", results[2][0]["text"]) and "ab" not in results[2][0]["text"]
    for choice in results[3]:
        full_match("[ab]{30}", choice["text"])
        assert len(choice["logprobs"]["token_logprobs"]) == len(choice["logprobs"]["tokens"])
    assert len({choice["text"] for choice in results[3]}) > 1
    full_match("[ab]{0,200}", results[4][0]["text"])
    assert len(results[4][0]["text"]) >= 24
    full_match("[ab]{30}", results[5][0]["text"])
    full_match("[ab]{1,30}", results[6][0]["text"])
    assert results[6][0]["finish_reason"] == "length"
    assert results[7][0]["text"].endswith("Well?")


def test_invariance():
    """Constrained and free requests together give the bits that each gives alone, speculation and preemption included."""
    free = [{"prompt": f"Tell me about {x}.", "max_tokens": 30, "temperature": 0.9, "seed": i, "logprobs": 2} for i, x in enumerate("abcdefgh")]
    forms = [{"regex": "[a-f ]{40}"}, {"json": SCHEMAS["person"], "disable_any_whitespace": True}, {"choice": CHOICES}, {"grammar": GRAMMAR}]
    bodies = []
    for i, body in enumerate(free):
        bodies += [body, {**body, "structured_outputs": forms[i % 4], "max_tokens": 60}]
    model = batch_driver.TINY / "llama-chat"

    def answers(results):
        return [[(c["text"], c["logprobs"], c["finish_reason"]) for c in r["choices"]] for r in results]

    alone = [answers(batch_driver.run_batch(model, [body], "--max-num-seqs", 1))[0] for body in bodies]
    assert answers(batch_driver.run_batch(model, bodies)) == alone
    assert answers(batch_driver.run_batch(model, bodies[::-1], "--max-num-batched-tokens", 24, "--threads", 2))[::-1] == alone
    ngram = '{"method": "ngram", "num_speculative_tokens": 4}'
    assert answers(batch_driver.run_batch(model, bodies, "--speculative-config", ngram)) == alone
    results, log = batch_driver.run_batch_with_log(model, bodies, "--block-size", 4, "--max-model-len", 128, "--kv-cache-memory-bytes", "48KiB")
    assert answers(results) == alone
    assert not re.search(r"\b0 preemptions", log), log


def refusals(cli, tmp_path, bodies, *flags, model="llama-chat", url="/v1/completions"):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"custom_id": str(i), "url": url, "body": body} for i, body in enumerate(bodies)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = cli("run-batch", "-i", source, "-o", target, "--overwrite", "--model", model if isinstance(model, pathlib.Path) else batch_driver.TINY / model, *flags)
    assert done.returncode == 0, done.stderr
    results = {}
    for line in target.read_text().splitlines():
        item = json.loads(line)
        results[int(item["custom_id"])] = item["response"]
    return [results[i] for i in range(len(bodies))]


def test_refused_by_name(cli, tmp_path):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    cases = [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": schema, "guided_regex": "a"}, "guided_regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 3}}, "structured_outputs.regex"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
        ({"structured_outputs": {"regex": "(("}}, "structured_outputs"),
        ({"guided_regex": "(("}, "guided_regex"),
        ({"guided_grammar": "no grammar"}, "guided_grammar"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "blue"}}}}, "response_format"),
        ({"guided_regex": "a{1,1000000000}{1,1000000}"}, "guided_regex"),
    ]
    results = refusals(cli, tmp_path, [{"prompt": "a", "max_tokens": 3, **fields} for fields, _ in cases], "--structured-outputs-timeout", 2)
    for (fields, name), result in zip(cases, results):
        assert result["status_code"] == 400 and result["body"]["error"]["param"] == name, (fields, result)
        assert len(result["body"]["error"]["message"]) < 1500


def test_command_line(cli, tmp_path):
    model = batch_driver.TINY / "llama-chat"
    done = cli("generate", model, "-q", "--structured-outputs", '{"regex": "[xyz]{4}"}', "-p", "Hi")
    assert re.fullmatch(rb"[xyz]{4}\n?", done.stdout), done
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMAS["tuple"]))
    done = cli("generate", model, "-q", "--json-schema", schema, "-p", "Hi", "--max-tokens", 600)
    assert done.returncode == 0, done
    done = cli("chat", model, "-q", "--structured-outputs", '{"choice": ["good", "bad"]}', stdin="Hi\nHo\n")
    assert re.fullmatch(rb"((good|bad)\n){2}", done.stdout), done
    for flags in (["--structured-outputs", "{"], ["--structured-outputs", '{"regex": "(("}'], ["--structured-outputs", '{"color": 1}'],
                  ["--structured-outputs", '{"regex": "a"}', "--json-schema", schema]):
        done = cli("generate", model, "-p", "Hi", *flags)
        assert done.returncode == 2 and re.search(rb"error: (--)?(structured|json)", done.stderr), done


# ---- tool calls -----------------------------------------------------------------------------------------------------

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 10}, "unit": {"enum": ["c", "f"]}}, "required": ["city", "unit"],
        "additionalProperties": False}}},
    {"type": "function", "function": {"name": "add", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["a", "b"], "additionalProperties": False}}},
]
PARAMETERS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
TEMPLATES = {"qwen2.5": "Qwen-Qwen2.5-7B-Instruct.jinja", "qwen3": "Qwen-Qwen3-0.6B.jinja", "llama3.1": "meta-llama-Llama-3.1-8B-Instruct.jinja"}


def model_with_template(tmp_path, template):
    folder = tmp_path / "model"
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(batch_driver.TINY / "llama-chat", folder)
    shutil.copy(template_folder() / template, folder / "chat_template.jinja")
    for name, change in (("config.json", {"max_position_embeddings": 8192}), ("tokenizer_config.json", {"chat_template": None})):
        config = json.loads((folder / name).read_text())
        config.update(change)
        config = {key: value for key, value in config.items() if value is not None or key != "chat_template"}
        (folder / name).write_text(json.dumps(config))
    return folder


def ask(**more):
    return {"messages": [{"role": "user", "content": "What is the weather in Bern?"}], "tools": TOOLS, "max_tokens": 600, **more}


@pytest.mark.parametrize("family", TEMPLATES)
def test_required_calls(family, tmp_path, cli):
    """A random model that must call calls, with arguments by the schemas."""
    model = model_with_template(tmp_path, TEMPLATES[family])
    named = {"type": "function", "function": {"name": "add"}}
    bodies = [ask(tool_choice=choice, temperature=t, seed=seed, parallel_tool_calls=parallel)
              for choice in ("required", named) for parallel in (True, False) for t, seed in ((0, 0), (1.0, 1), (1.0, 2), (1.0, 3))]
    stopped = 0
    for body, result in zip(bodies, refusals(cli, tmp_path, bodies, model=model, url="/v1/chat/completions")):
        assert result["status_code"] == 200, result
        choice = result["body"]["choices"][0]
        calls = choice["message"]["tool_calls"]
        assert choice["finish_reason"] in ("tool_calls", "length")
        if choice["finish_reason"] == "length":
            assert body["parallel_tool_calls"] and body["tool_choice"] == "required"  # it may go on calling
            continue
        stopped += 1
        assert choice["message"]["content"] is None, choice
        assert len({call["id"] for call in calls}) == len(calls)
        if not body["parallel_tool_calls"] or body["tool_choice"] != "required":
            assert len(calls) == 1
        for call in calls:
            assert call["type"] == "function"
            function = call["function"]
            jsonschema.validate(json.loads(function["arguments"]), PARAMETERS[function["name"]])
            assert function["name"] == "add" or body["tool_choice"] == "required"
    assert stopped >= len(bodies) * 3 // 4


def test_a_conversation_with_calls(tmp_path, cli):
    """Earlier calls and their results render through the template; with tool_choice auto a random model writes text."""
    for template in TEMPLATES.values():
        model = model_with_template(tmp_path, template)
        messages = [
            {"role": "user", "content": "What is 1 + 2?"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        ]
        for choice in ("auto", "none", None):
            [result] = refusals(cli, tmp_path, [ask(messages=messages, tool_choice=choice, max_tokens=20)], model=model, url="/v1/chat/completions")
            assert result["status_code"] == 200, result
            assert isinstance(result["body"]["choices"][0]["message"]["content"], str)


def test_a_template_without_tools(tmp_path, cli):
    results = refusals(cli, tmp_path, [ask(), ask(tool_choice="required"), ask(tool_choice="none", max_tokens=2)], url="/v1/chat/completions")
    assert [r["status_code"] for r in results] == [400, 400, 200]
    assert results[0]["body"]["error"]["param"] == "tools"


def test_smollm2_answers_by_a_schema(cli):
    """The real model: what it would have said anyway, in the form that is asked for."""
    schema = {"type": "object", "properties": {"capital": {"type": "string"}, "country": {"type": "string"}}, "required": ["capital", "country"],
              "additionalProperties": False}
    done = cli("generate", "-q", "--structured-outputs", json.dumps({"json": schema}), "--max-tokens", 80, "-p",
               "What is the capital of France? Answer as JSON with the keys capital and country.", timeout=300)
    answer = json.loads(done.stdout)
    jsonschema.validate(answer, schema)
    assert "Paris" in answer["capital"] and "france" in answer["country"].lower(), answer
