"""Structured output and tool calls through the server: streaming adds up to the whole, and who means ill delays nobody."""

import json
import threading
import time
from typing import Literal

import jsonschema
import openai
import pydantic
import pytest
from serving import Server, stream_events
from test_structured import PARAMETERS, SCHEMAS, TEMPLATES, ask, model_with_template


def stream(server, body):
    """The chunks' choices by index, put together: content, calls, finish reason."""
    status, headers, data = server.request("POST", "/v1/chat/completions", {**body, "stream": True})
    assert status == 200, data
    assert headers["Content-Type"].startswith("text/event-stream")
    choices = {}
    for chunk in stream_events(data):
        for choice in chunk["choices"]:
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
def test_streamed_calls(tmp_path, family):
    model = model_with_template(tmp_path, TEMPLATES[family])
    with Server(model=model) as server:
        for choice in ("required", {"type": "function", "function": {"name": "add"}}, "auto"):
            for n, temperature in ((1, 0), (3, 1.0)):
                body = ask(tool_choice=choice, temperature=temperature, seed=5, n=n, max_tokens=300)
                whole = server.answer("/v1/chat/completions", body)
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


def test_forms_are_described():
    """What openapi.json lists is what is taken, and what it does not list is refused."""
    with Server() as server:
        for fields in ({"structured_outputs": {"choice": ["a", "b"]}}, {"guided_regex": "[ab]"}, {"guided_choice": ["a", "b"]},
                       {"guided_grammar": 'root ::= "a" | "b"'}, {"guided_json": {"enum": ["a", "b"]}},
                       {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"const": "a"}}}}):
            answer = server.answer("/v1/completions", {"prompt": "x", "max_tokens": 20, **fields})
            assert answer["choices"][0]["text"] in ("a", "b", '"a"', '"b"'), answer
        for fields, name in (({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp"), ({"guided_regex": "(("}, "guided_regex"),
                             ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format")):
            status, _, data = server.request("POST", "/v1/completions", {"prompt": "x", **fields})
            assert status == 400 and json.loads(data)["error"]["param"] == name, data


def test_the_hostile_delay_nobody():
    """Schemas that take for ever are refused at the limit, while others are served as if there were none."""
    with Server("--structured-outputs-timeout", 2) as server:
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
            answer = server.answer("/v1/completions", {"prompt": "x", "max_tokens": 3})
            assert answer["usage"]["completion_tokens"] <= 3
            slowest = max(slowest, time.monotonic() - start)
        for thread in attackers:
            thread.join()
        for status, body, _ in outcomes:
            assert status == 400 and "takes longer than 2 s" in body["error"]["message"], body
        assert slowest < 3, slowest
        # It compiles at once, and would take seconds a token later.
        status, _, data = server.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1500, "guided_grammar": 'root ::= root root | "a" | ""',
                                                                     "logit_bias": {"2": -100}}, timeout=120)
        assert status in (200, 400, 503), data
        start = time.monotonic()
        server.answer("/v1/completions", {"prompt": "x", "max_tokens": 3, "guided_json": SCHEMAS["choice of types"]})
        assert time.monotonic() - start < 10


class Verdict(pydantic.BaseModel):
    word: Literal["yes", "no", "perhaps"]
    sure: bool


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def no_space(server):
    """This model would write white space between the tokens of JSON for ever."""
    return {str(id): -100 for space in " \n\t\r" for id in server.answer("/tokenize", {"prompt": space})["tokens"]}


class TestOpenaiClient:
    """The `openai` package's own ways to ask for a form, on a model that writes at random: what it gives back has the form."""

    MESSAGES = [{"role": "user", "content": "Is it so?"}]

    def test_a_schema(self, client, no_space):
        schema = {"type": "object", "properties": {"a": {"enum": [1, 22]}, "b": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
                  "required": ["a", "b"], "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
        for seed in range(4):
            answer = client.chat.completions.create(model="tiny", messages=self.MESSAGES, response_format=form, seed=seed, max_tokens=300,
                                                    logit_bias=no_space)
            assert answer.choices[0].finish_reason == "stop"
            jsonschema.validate(json.loads(answer.choices[0].message.content), schema)

    def test_parsed_into_a_class(self, client, no_space):
        answer = client.chat.completions.parse(model="tiny", messages=self.MESSAGES, response_format=Verdict, seed=1, max_tokens=300,
                                               logit_bias=no_space)
        assert isinstance(answer.choices[0].message.parsed, Verdict)

    def test_streamed_into_a_class(self, client, no_space):
        with client.chat.completions.stream(model="tiny", messages=self.MESSAGES, response_format=Verdict, seed=2, max_tokens=300,
                                            logit_bias=no_space) as events:
            final = events.get_final_completion()
        assert isinstance(final.choices[0].message.parsed, Verdict)

    @pytest.mark.parametrize("form, allowed", [({"choice": ["left", "right"]}, {"left", "right"}), ({"regex": "a{2,3}"}, {"aa", "aaa"}),
                                               ({"grammar": 'root ::= "x" | "yz"'}, {"x", "yz"})])
    def test_vllms_forms(self, client, form, allowed):
        answer = client.completions.create(model="tiny", prompt="x", extra_body={"structured_outputs": form}, seed=3, max_tokens=50)
        assert answer.choices[0].text in allowed

    def test_a_form_that_is_none(self, client):
        with pytest.raises(openai.BadRequestError) as error:
            client.completions.create(model="tiny", prompt="x", extra_body={"guided_regex": "(("})
        assert error.value.param == "guided_regex"
