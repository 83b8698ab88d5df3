"""Chat templates: our renderer against jinja2 in the environment that Hugging Face builds, byte for byte.

Every template of llama-cpp-python's source package in several contexts each, written cases, and random programs. Both
must give the same text, or both must fail.
"""

import copy
import datetime
import functools
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tarfile

import jinja2
import jinja2.ext
import jinja2.sandbox

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("NANO_VLLM_BUILD", ROOT / "build" / "release"))
RENDERER = BUILD / "tests" / "render_lines"

SDIST = "llama_cpp_python-0.3.36"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"


# ---- the reference --------------------------------------------------------------------------------------------------


class GenerationTag(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass_through"), [], [], body).set_lineno(line)

    def _pass_through(self, caller):
        return caller()


def reference_environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.datetime.now().strftime(format)
    return environment


ENVIRONMENT = reference_environment()


@functools.lru_cache(maxsize=200)
def compiled(template):
    return ENVIRONMENT.from_string(template)


def reference(template, context):
    """The rendered text, or None if jinja2 fails."""
    try:
        # A copy: jinja2's indent filter appends to a list that it is given by mistake.
        return compiled(template).render(**copy.deepcopy(context))
    except Exception:
        return None


def ours(cases):
    """The reply, {"output"} or {"error"}, for each (template, context)."""
    lines = "".join(json.dumps({"template": t, "context": c}) + "\n" for t, c in cases)
    done = subprocess.run([RENDERER], input=lines.encode(), capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.decode().split("\n") if line]


def compare(cases):
    """Descriptions of the cases that differ."""
    replies = ours(cases)
    assert len(replies) == len(cases)
    wrong = []
    for (template, context), reply in zip(cases, replies):
        expected = reference(template, context)
        if reply.get("output") != expected:
            wrong.append(f"{template[:400]!r}\n context: {str(context)[:300]}\n jinja2: {expected!r}\n   ours: {reply!r}")
    return wrong


def check(cases):
    wrong = compare(cases)
    assert not wrong, f"{len(wrong)} of {len(cases)} differ:\n" + "\n\n".join(wrong[:10])


# ---- every real template --------------------------------------------------------------------------------------------

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city <now> & \"later\", 'quoted' – für Zürich",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city", "enum": ["Zürich", "東京"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 18446744073709551615, "default": 3},
                    "unit": {"type": ["string", "null"], "items": {"type": "string"}},
                    "nested": {"type": "object", "properties": {"deep": {"type": "array", "items": {"type": "number"}}}},
                },
                "required": ["city"],
            },
            "return": {"type": "object", "properties": {"t": {"type": "number"}}},
        },
    },
    {
        "type": "function",
        "function": {"name": "noop", "description": "Does nothing", "parameters": {"type": "object", "properties": {}}},
    },
]


def contexts():
    def user(content):
        return {"role": "user", "content": content}

    def assistant(content, **more):
        return {"role": "assistant", "content": content, **more}

    system = {"role": "system", "content": "You are  terse.\n"}
    call = {"id": "abcdef123", "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2.5, "flag": True, "none": None}}}
    call_text = {"id": "call00002", "type": "function",
                 "function": {"name": "noop", "arguments": "{\"a\": [1, 2]}"}}
    result = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": "{\"t\": 21.5}"}
    parts = [{"type": "text", "text": "What is "}, {"type": "image"}, {"type": "text", "text": "this?"}]
    conversations = {
        "user": [user("Hello!")],
        "system and turns": [system, user("Hi"), assistant("Hello."), user(" 2+2? \n"), assistant("4"), user("ok")],
        "unicode": [system, user("naïve Straße 🎉\u2028 ಕನ್ನಡ \t\"q\" 'a' \\n <tag> &amp;")],
        "ends with assistant": [user("Hi"), assistant("<think>\nhm\n</think>\n\nSure, ")],
        "reasoning": [user("Why?"), assistant("Because.", reasoning_content="Let me\nthink.", thinking="Let me\nthink."),
                      user("And?")],
        "parts": [user(parts), assistant([{"type": "text", "text": "A cat."}]), user([{"type": "text", "text": "Sure?"}])],
        "empty": [user("")],
        "no messages": [],
        "two users": [user("a"), user("b")],
        "tool call": [user("Weather?"), assistant("", tool_calls=[call]), result],
        "tool call, none": [system, user("Weather?"), assistant(None, tool_calls=[call]), result, assistant("21.5 degrees"),
                            user("Thanks")],
        "two calls": [user("Weather?"), assistant("Looking", tool_calls=[call, call_text]), result,
                      {**result, "name": "noop", "tool_call_id": "call00002", "content": "ok"}, assistant("Done")],
        "arguments as text": [user("Go"), assistant("", tool_calls=[call_text]),
                              {"role": "tool", "content": "x", "tool_call_id": "call00002"}, user("And now?")],
        "unknown role": [{"role": "critic", "content": "no"}],
        "missing content": [{"role": "user"}],
        "missing role": [{"content": "x"}],
    }
    base = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    extras = [
        {"add_generation_prompt": True},
        {"add_generation_prompt": False},
        {"add_generation_prompt": True, "tools": TOOLS},
        {"add_generation_prompt": True, "tools": TOOLS, "enable_thinking": True, "thinking": True, "date_string": "26 Jul 2024"},
        {"add_generation_prompt": True, "enable_thinking": False, "thinking": False, "tools": None},
        {"add_generation_prompt": True, "documents": [{"title": "A", "text": "B", "content": "B"}], "reasoning_effort": "high",
         "keep_past_thinking": True, "preserve_thinking": True},
    ]
    for name, messages in conversations.items():
        for i, extra in enumerate(extras):
            yield f"{name} {i}", {**base, "messages": messages, **extra}
    yield "nothing at all", {}
    yield "no special tokens", {"messages": conversations["user"]}


def template_folder():
    """The templates, from the source package of the Python package index, kept under the build folder."""
    folder = BUILD / "test-data" / SDIST
    archive = folder.parent / (SDIST + ".tar.gz")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not archive.exists():
            download(archive)
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert digest == SDIST_SHA256, f"{archive} has SHA-256 {digest}"
        partial = folder.parent / (SDIST + ".partial")
        partial.mkdir(exist_ok=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and "/vendor/llama.cpp/models/templates/" in member.name:
                    (partial / pathlib.Path(member.name).name).write_bytes(tar.extractfile(member).read())
        partial.rename(folder)
    return folder


def download(archive):
    """With pip, which knows this machine's index; it also asks scikit-build-core, the package's build system, for its metadata."""
    folder = archive.parent / "download"
    requirement = SDIST.replace("-", "==").replace("_", "-")
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "-d", folder, requirement],
                   check=True, timeout=900)
    (folder / archive.name).rename(archive)


def real_templates():
    return sorted(template_folder().glob("*.jinja"))


def test_every_real_template():
    templates = real_templates()
    assert len(templates) >= 65
    cases = []
    for path in templates:
        source = path.read_text(encoding="utf-8")
        for _, context in contexts():
            cases.append((source, context))
    replies, wrong, rendered = ours(cases), [], 0
    names = [(path.name, name) for path in templates for name, _ in contexts()]
    for (template, context), reply, name in zip(cases, replies, names):
        expected = reference(template, context)
        rendered += expected is not None
        if reply.get("output") != expected:
            wrong.append(f"{name}\n jinja2: {expected!r}\n   ours: {reply!r}")
    print(f"{len(templates)} templates, {len(cases)} renderings, {rendered} of them without an error")
    assert not wrong, f"{len(wrong)} of {len(cases)} differ:\n" + "\n\n".join(wrong[:5])
    assert rendered > len(cases) / 2


# ---- the language ---------------------------------------------------------------------------------------------------

VALUES = {"n": 7, "f": 2.5, "neg": -3, "big": 1e20, "s": "Hello Wörld", "e": "", "l": [3, 1, 2], "t": True, "z": None,
          "d": {"a": 1, "b": {"c": "x"}, "items": 5, "Z": None}, "u": [{"n": "b", "v": 2}, {"n": "A", "v": 1}, {"v": 3}]}
ATOMS = ["n", "f", "neg", "big", "s", "e", "l", "t", "z", "d", "u", "missing", "d.a", "d.b.c", "d['items']", "d.nope", "l[0]",
         "l[-1]", "l[1:]", "s[::-1]", "s[1:4]", "u[0].n", "1", "0", "2.0", "1e-7", "'a'", "'%s'", "'a,b'", "[1, 'x']", "(1,)",
         "{'k': n}", "range(4)", "none", "true", "not t", "-n", "-1", "n * 2 + 1", "7 // -2", "7 % -3", "2 ** 3", "7 / 2"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
FILTERS = ["upper", "lower", "title", "capitalize", "trim", "length", "list", "string", "int", "float", "abs", "first", "last",
           "reverse|list", "sort", "join('-')", "join", "tojson", "tojson(indent=2)", "default('D')", "default('D', true)",
           "replace('l', 'L')", "round", "round(1)", "round(1, 'floor')", "unique|list", "sum", "min", "max", "items|list",
           "dictsort", "map('upper')|list", "map(attribute='n')|list", "select|list", "selectattr('n', 'defined')|list",
           "rejectattr('n')|list", "batch(2)|list", "slice(2)|list", "groupby('v')", "indent(2, true)", "truncate(6, true)",
           "center(15)", "wordcount", "format(1)", "filesizeformat", "urlencode", "tojson(sort_keys=true)",
           "tojson(separators=(',', ':'), ensure_ascii=true)", "sum(start=2)", "attr('a')", "sort(attribute='v', reverse=true)"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable",
         "odd", "even", "divisibleby 2", "in [1, 7, 'a']", "true", "false", "lower", "upper", "eq 1", "sameas none", "callable"]
METHODS = ["strip()", "split()", "split(',', 1)", "upper()", "startswith('H')", "endswith(('d', 'x'))", "find('l')", "count('l')",
           "replace('l', '')", "items()|list", "keys()|list", "values()|list", "get('a')", "get('q', 1)", "join(['x', 'y'])",
           "format(1, k=2)", "isdigit()", "zfill(14)", "rsplit('l', 1)", "partition('l')", "splitlines()", "append(1)", "pop()",
           "index(1)", "title()", "swapcase()", "lstrip('H')", "removeprefix('He')", "center(5)", "update({})"]


def random_expression(rng, depth):
    if depth == 0:
        return rng.choice(ATOMS)
    inner = lambda: random_expression(rng, depth - 1)
    shape = rng.randrange(9)
    if shape < 3:
        return f"({inner()} {rng.choice(BINARY)} {inner()})"
    if shape < 6:
        return f"({inner()})|{rng.choice(FILTERS)}"
    if shape == 6:
        return f"({inner()} is {rng.choice(['', 'not '])}{rng.choice(TESTS)})"
    if shape == 7:
        return f"({inner()}).{rng.choice(METHODS)}"
    return f"({inner()} if {inner()} else {inner()})"


def random_program(rng, depth):
    expression = lambda: random_expression(rng, rng.randrange(3))
    gap = lambda: rng.choice(["", " ", "\n", "\n  ", " x\n", "\t"])
    tag = lambda text: "{%" + rng.choice(["", "-", "", "+"]) + " " + text + " " + rng.choice(["", "-", ""]) + "%}"
    body = lambda: "".join(random_program(rng, depth - 1) for _ in range(rng.randrange(1, 3))) if depth else gap()
    shape = rng.randrange(11)
    if shape < 4 or depth == 0:
        return gap() + "{{" + rng.choice(["", "-"]) + " " + expression() + " " + rng.choice(["", "-"]) + "}}" + gap()
    if shape == 4:
        return tag(f"set n = {expression()}") + gap() + body()
    if shape == 5:
        return gap() + tag(f"if {expression()}") + body() + tag("else") + body() + tag("endif") + gap()
    if shape == 6:
        flow = rng.choice(["", "{% if loop.index == 2 %}{% break %}{% endif %}", "{% if loop.first %}{% continue %}{% endif %}"])
        return (gap() + tag(f"for s in {expression()}{rng.choice(['', ' if s'])}") + "{{ loop.index }}/{{ loop.last }}" + flow + body()
                + tag("else") + gap() + tag("endfor"))
    if shape == 7:
        return tag("macro m(a, b=2)") + "{{ a }}{{ b }}" + body() + tag("endmacro") + "{{ m(" + expression() + ") }}"
    if shape == 8:
        return tag("set s") + body() + tag("endset") + "{{ s }}" + gap()
    if shape == 9:
        return "{% set ns = namespace(x=0) %}{% for i in range(3) %}{% set ns.x = ns.x + i %}" + body() + "{% endfor %}{{ ns.x }}"
    return gap() + "{#" + rng.choice(["", "-"]) + " c " + rng.choice(["", "-"]) + "#}" + gap()


def comparable(template, context):
    """Not what prints an address, or computes beyond 64 bits: those differ by design."""
    text = reference(template, context)
    return text is None or (" at 0x" not in text and len(text) < 20000)


def test_random_programs():
    seed = int(os.environ.get("NANO_VLLM_TEST_SEED", random.randrange(1 << 30)))
    print("NANO_VLLM_TEST_SEED =", seed)
    rng = random.Random(seed)
    cases = [("{{ " + random_expression(rng, rng.randrange(1, 4)) + " }}", VALUES) for _ in range(2000)]
    cases += [("".join(random_program(rng, 2) for _ in range(3)), VALUES) for _ in range(600)]
    check([case for case in cases if comparable(*case)])

