"""/openapi.json against the server: schemathesis makes requests of it, valid and not, and looks at the answers; and the
description names every field that the parser reads."""
import json
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT
from serving import Server

# Not positive_data_acceptance: whether a request fits the model, or logprobs go with top_logprobs, no schema says.
CHECKS = ("not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
          "response_schema_conformance,negative_data_rejection,unsupported_method")


@pytest.fixture(scope="module")
def server():
    with Server("--max-model-len", 512) as server:
        yield server


def test_schemathesis(server, tmp_path):
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--checks", CHECKS, "--phases",
               "examples,coverage,fuzzing", "--max-examples", os.environ.get("NANO_VLLM_SCHEMATHESIS_EXAMPLES", "5"), "--seed",
               os.environ.get("NANO_VLLM_TEST_SEED", "1"), "--continue-on-failure", "--suppress-health-check", "all",
               "--request-timeout", "30", "--generation-database", "none"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " generated" in result.stdout
    assert server.request("GET", "/health")[0] == 200


def test_every_path_is_there(server):
    document = json.loads(server.request("GET", "/openapi.json")[2])
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize", "/detokenize", "/health",
            "/metrics"} <= document["paths"].keys()
    for path, methods in document["paths"].items():
        for method in methods:
            body = {} if method == "post" else None
            assert server.request(method.upper(), path.replace("{model}", "x"), body)[0] != 405, path


def test_the_description_names_what_the_parser_reads():
    schemas = json.loads((ROOT / "src/server/openapi.json").read_text())["components"]["schemas"]
    named = {name for schema in schemas.values() for name in re.findall(r'"(\w+)":', json.dumps(schema))}
    source = (ROOT / "src/server/openai_request.cc").read_text()
    read = set(re.findall(r'\.(?:boolean|integer|number|string|array|object|get)\("(\w+)"\)', source))
    assert len(read) > 30 and read <= named, read - named
