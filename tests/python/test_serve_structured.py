"""Structured output and tool calls through the server: streaming adds up to the whole, and who means ill delays nobody."""

import json
import threading
import time

import batch_driver
import jsonschema
import pytest
import serving
from test_structured import PARAMETERS, SCHEMAS, TEMPLATES, ask, model_with_template


def stream(server, body):
    """The chunks' choices by index, put together: content, calls, finish reason."""
    status, headers, data = server.request("POST", "/v1/chat/completions", {**body, "stream": True})
    assert status == 200, data
    assert headers["Content-Type"].startswith("text/event-stream")
    events = [event for event in data.decode().split("\n\n") if event]
    assert events[-1] == "data: [DONE]"
    choices = {}
    for event in events[:-1]:
        for choice in json.loads(event.removeprefix("data: "))["choices"]:
            whole = choices.setdefault(choice["index"], {"content": "", "calls": [], "reason": None, "pieces": 0})
            delta = choice["delta"]
            whole["content"] += delta.get("content") or ""
            for call in delta.get("tool_calls", []):
                if "id" in call:
                    assert call["type"] == "function" and call["index"] == len(whole["calls"])
                    whole["calls"].append([call["id"], call["function"]["name"], ""])
                assert call["index"] == len(whole["calls"]) - 1
                whole["calls"][-1][2] += call["function"]["arguments"]
                whole["pieces"] += 1
            assert whole["reason"] is None
            whole["reason"] = choice["finish_reason"]
    return choices


@pytest.mark.parametrize("family", TEMPLATES)
def test_streamed_calls(binary, tmp_path, family):
    model = model_with_template(tmp_path, TEMPLATES[family])
    with serving.running(binary, model) as server:
        for choice in ("required", {"type": "function", "function": {"name": "add"}}, "auto"):
            for n, temperature in ((1, 0), (3, 1.0)):
                body = ask(tool_choice=choice, temperature=temperature, seed=5, n=n, max_tokens=300)
                whole = server.post("/v1/chat/completions", body)
                streamed = stream(server, body)
                assert len(streamed) == n == len(whole["choices"])
                for expected in whole["choices"]:
                    got, message = streamed[expected["index"]], expected["message"]
                    assert got["reason"] == expected["finish_reason"]
                    assert got["content"] == (message["content"] or "")
                    assert [call[1:] for call in got["calls"]] == [
                        [call["function"]["name"], call["function"]["arguments"]] for call in message.get("tool_calls", [])]
                    if choice != "auto":
                        assert got["calls"] and got["pieces"] > len(got["calls"])
                        if got["reason"] == "tool_calls":
                            for _, name, arguments in got["calls"]:
                                jsonschema.validate(json.loads(arguments), PARAMETERS[name])
        assert server.stop() == 0, server.log()


def test_forms_are_described(binary, tmp_path):
    """What openapi.json lists is what is taken, and what it does not list is refused."""
    with serving.running(binary, batch_driver.TINY / "llama-chat") as server:
        for fields in ({"structured_outputs": {"choice": ["a", "b"]}}, {"guided_regex": "[ab]"}, {"guided_choice": ["a", "b"]},
                       {"guided_grammar": 'root ::= "a" | "b"'}, {"guided_json": {"enum": ["a", "b"]}},
                       {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"const": "a"}}}}):
            answer = server.post("/v1/completions", {"prompt": "x", "max_tokens": 20, **fields})
            assert answer["choices"][0]["text"] in ("a", "b", '"a"', '"b"'), answer
        for fields, name in (({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp"), ({"guided_regex": "(("}, "guided_regex"),
                             ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format")):
            status, _, data = server.request("POST", "/v1/completions", {"prompt": "x", **fields})
            assert status == 400 and json.loads(data)["error"]["param"] == name, data


def test_the_hostile_delay_nobody(binary):
    """Schemas that take for ever are refused at the limit, while others are served as if there were none."""
    with serving.running(binary, batch_driver.TINY / "llama-chat", "--structured-outputs-timeout", 2) as server:
        outcomes = []

        def attack(i):
            start = time.monotonic()
            status, _, data = server.request("POST", "/v1/completions", {"prompt": "x", "guided_regex": "a" * (400_000 + i)}, timeout=120)
            outcomes.append((status, json.loads(data), time.monotonic() - start))

        attackers = [threading.Thread(target=attack, args=(i,)) for i in range(4)]
        for thread in attackers:
            thread.start()
        slowest = 0
        while any(thread.is_alive() for thread in attackers):
            start = time.monotonic()
            answer = server.post("/v1/completions", {"prompt": "x", "max_tokens": 3})
            assert answer["usage"]["completion_tokens"] <= 3
            slowest = max(slowest, time.monotonic() - start)
        for thread in attackers:
            thread.join()
        for status, body, _ in outcomes:
            assert status == 400 and "takes longer than 2 s" in body["error"]["message"], body
        assert slowest < 1.5, slowest
        # It compiles at once, and would take seconds a token later.
        status, _, data = server.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1500, "guided_grammar": 'root ::= root root | "a" | ""',
                                                                     "logit_bias": {"2": -100}}, timeout=120)
        assert status in (200, 400, 503), data
        start = time.monotonic()
        server.post("/v1/completions", {"prompt": "x", "max_tokens": 3, "guided_json": SCHEMAS["choice of types"]})
        assert time.monotonic() - start < 3
        assert server.stop() == 0, server.log()
