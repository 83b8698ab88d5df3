"""The web page in a real browser (Debian's chromium, headless): chatting, what stays, hostile Markdown, and the engine's blocks."""

import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.request

import pytest

from conftest import ROOT, TINY
from serving import Server, completion, head, stream_events

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no chromium with a chromedriver")
BUDGET = 64


@pytest.fixture(scope="module")
def server():
    with Server("--max-num-batched-tokens", BUDGET, "--kv-cache-memory-bytes", "1MiB") as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900", f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def page(server, browser):
    page = Page(browser, server.url)
    page.open()
    yield page
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and not entry.get("source") == "network"]
    assert not errors, errors


@pytest.fixture
def rendering(server, browser):
    """A page of which only the renderer is wanted: loaded once."""
    page = Page(browser, server.url)
    if not browser.current_url.startswith(server.url):
        page.open()
    return page


class Page:
    def __init__(self, browser, url):
        self.browser, self.url = browser, url

    def open(self, view="chat", fresh=True):
        self.browser.get("about:blank")
        self.browser.get(f"{self.url}/#{view}")
        if fresh:
            self.browser.execute_script("localStorage.clear()")
            self.browser.refresh()
        self.wait(lambda: self.one("#server").get_attribute("data-state") == "up")

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def js(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < end, "timed out"
            time.sleep(0.03)
        return result

    def set(self, **settings):
        """As if typed into the settings' fields."""
        for name, value in settings.items():
            self.js("const f = document.getElementById('set-' + arguments[0]); f.value = arguments[1];"
                    "f.dispatchEvent(new Event('input'))", name, value)

    def send(self, text):
        self.one("#prompt").send_keys(text + Keys.ENTER)

    def running(self):
        return self.one("#stop").is_displayed()

    def texts(self, selector):
        return self.js("return [...document.querySelectorAll(arguments[0])].map((n) => n.textContent)", selector)

    def answer(self):
        self.wait(lambda: not self.running() and self.all(".message.assistant footer .tools"))
        return self.texts(".message.assistant .body")[-1]


def test_headers_and_caching(server):
    def get(path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response, response.read()

    page, body = get("/")
    assert page.status == 200 and page.headers["Content-Type"] == "text/html; charset=utf-8" and b"<!doctype html>" in body
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for name in os.listdir(ROOT / "src" / "server" / "web"):
        if name == "index.html":
            continue
        response, _ = get("/web/" + name)
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[name.rsplit(".")[-1]]
        assert response.status == 200 and response.headers["Content-Type"].startswith(kind), name
    again, body = get("/", **{"If-None-Match": page.headers["ETag"]})
    assert again.status == 304 and body == b""
    assert get("/web/nothing.js")[0].status == 404


def test_chat_streams_and_survives_a_reload(page):
    page.set(max_tokens="24", temperature="0")
    page.send("one two three")
    first = page.answer()
    assert page.texts(".message.user .body") == ["one two three"]
    figures = page.texts(".message.assistant .figures")[-1]
    assert "tokens/s" in figures and "first token after" in figures
    page.send("four")
    page.answer()
    page.open(fresh=False)
    page.wait(lambda: len(page.all(".message")) == 4)
    assert page.texts(".message.user .body") == ["one two three", "four"]
    assert page.texts(".message.assistant .body")[0] == first
    assert page.texts("#conversation-list .title") == ["one two three"]
    # The settings are as they were: the same answer again.
    page.one("#new-chat").click()
    page.send("one two three")
    assert page.answer() == first
    assert len(page.all("#conversation-list li")) == 2


def test_stop_edit_regenerate_rename_delete(page):
    page.set(max_tokens="1500", temperature="0")

    def engine(action):
        urllib.request.urlopen(urllib.request.Request(f"{page.url}/engine/{action}", b"{}", {"Content-Type": "application/json"}))

    engine("pause")  # a model this small would be done before anybody could stop it
    page.send("go on and on")

    def some_text():
        engine("step")
        return page.running() and len(page.texts(".message.assistant .body")[-1]) > 20

    page.wait(some_text)
    page.one("#stop").click()
    page.wait(lambda: not page.running())
    engine("resume")
    assert "stopped" in page.texts(".message.assistant .figures")[-1]
    state = lambda: json.load(urllib.request.urlopen(page.url + "/engine/state"))["frame"]["stats"]
    page.wait(lambda: state()["running"] == 0 and state()["kv_blocks_used"] == 0)  # the engine knows
    page.set(max_tokens="5")
    page.one('[aria-label="Edit this message and ask again"]').click()
    area = page.one(".editing textarea")
    area.clear()
    area.send_keys("shorter" + Keys.ENTER)
    page.wait(lambda: page.texts(".message.user .body") == ["shorter"])
    answer = page.answer()
    page.one('[aria-label="Answer again"]').click()
    page.wait(lambda: page.answer() == answer)
    assert len(page.all(".message")) == 2
    page.js("document.querySelector('[aria-label^=Rename]').click()")
    name = page.one("#conversation-list input")
    name.send_keys(Keys.CONTROL, "a")
    name.send_keys("A name" + Keys.ENTER)
    page.wait(lambda: page.texts("#conversation-list .title") == ["A name"])
    page.js("window.confirm = () => true; document.querySelector('[aria-label^=Delete]').click()")
    page.wait(lambda: page.texts("#conversation-list .title") == [])
    page.open(fresh=False)
    assert page.texts("#conversation-list .title") == [] and page.all(".welcome")


def test_a_server_that_restarts(browser):
    with Server() as server:
        page = Page(browser, server.url)
        page.open()
        page.set(max_tokens="4")
    page.send("hello?")
    page.wait(lambda: page.texts(".message .error"))
    assert "cannot be reached" in page.texts(".message .error")[0]
    with Server("--port", server.port):
        page.one(".message .error button").click()
        page.answer()
        assert page.texts(".message.user .body") == ["hello?"] and not page.texts(".message .error")
    browser.get("about:blank")
    browser.get_log("browser")


def render(page, text):
    """The HTML that the page makes of Markdown."""
    return page.browser.execute_async_script(
        "const [text, done] = arguments; import('/web/markdown.js').then(({renderMarkdown}) => {"
        " const div = document.createElement('div'); document.body.append(div); renderMarkdown(div, text);"
        " const html = div.innerHTML; window.rendered?.remove(); window.rendered = div; done(html); }, (e) => done('failed: ' + e))", text)


@pytest.mark.parametrize("text, parts", [
    ("**bold** *it* `x < y` ~~no~~", ["<strong>bold</strong>", "<em>it</em>", "<code>x &lt; y</code>", "<del>no</del>"]),
    ("# Title\n\ntext", ["<h3>Title</h3>", "<p>text</p>"]),
    ("- a\n- b\n  - c\n\n1. x\n2. y", ["<ul><li>a</li>", "<li>b<ul><li>c</li></ul></li>", "<ol><li>x</li><li>y</li></ol>"]),
    ("1. one\n   - inner\n2. two", ["<ol><li>one<ul><li>inner</li></ul></li><li>two</li></ol>"]),
    ("| a | b |\n|---|--:|\n| 1 | 2 |", ["<th>a</th>", '<td class="right">2</td>']),
    ("> quoted\n> more", ["<blockquote><p>quoted\nmore</p></blockquote>"]),
    ("```python\nprint('<b>')\n```", ["<span>python</span>", "&lt;b&gt;"]),
    ("```\nunfinished <i>", ["unfinished &lt;i&gt;"]),
    ("[site](https://example.org/a?b=c)", ['href="https://example.org/a?b=c"', 'rel="noopener noreferrer nofollow"', 'target="_blank"']),
    ("see https://example.org/x.", ['href="https://example.org/x"', "</a>.</p>"]),
    ("snake_case_name and 2 * 3 * 4", ["snake_case_name and 2 * 3 * 4"]),
])
def test_markdown(rendering, text, parts):
    html = render(rendering, text)
    for part in parts:
        assert part in html, html


HOSTILE = [
    "<script>window.hit = 1</script>", "<img src=x onerror='window.hit=1'>", "<svg onload=window.hit=1>", "<iframe src=javascript:window.hit=1>",
    "[x](javascript:window.hit=1)", "[x](JaVaScRiPt:window.hit=1)", "[x]( javascript:window.hit=1)", "[x](java\tscript:window.hit=1)",
    "[x](&#106;avascript:window.hit=1)", "[x](\x01javascript:window.hit=1)", "[x](data:text/html,<script>window.hit=1</script>)",
    "[x](vbscript:x)", "[x](//evil.example)", "[x](/relative)", "<javascript:window.hit=1>", "![x](https://evil.example/track.png)",
    '[x](https://a.example/" onmouseover="window.hit=1)', "[<img src=x onerror=window.hit=1>](https://a.example)",
    "```<img src=x onerror=window.hit=1>\nx\n```", "```\"onclick=\"window.hit=1\nx\n```", "`<img src=x onerror=window.hit=1>`",
    "| <img src=x onerror=window.hit=1> |\n|---|\n| <script>window.hit=1</script> |", "<a href='javascript:window.hit=1'>x</a>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.hit=1>", "\u202e<b>x</b>", "&lt;script&gt;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_markdown_stays_text(rendering, text):
    render(rendering, text)
    rendering.js("rendered.querySelectorAll('a').forEach((a) => { a.target = '_self'; a.addEventListener('click', (e) => e.preventDefault()); a.click(); })")
    allowed = "a p div span code pre figure figcaption button svg use table thead tbody tr th td strong em del h3 h4 h5 h6 ul ol li blockquote br hr".split()
    assert rendering.js(
        "const [allowed] = arguments; return [...rendered.querySelectorAll('*')].filter((n) => !allowed.includes(n.localName) ||"
        " [...n.attributes].some((a) => a.name.startsWith('on') || a.name === 'style' || a.name === 'src') ||"
        " (n.localName === 'a' && !/^(https?|mailto):/.test(n.href))).map((n) => n.outerHTML)", allowed) == []
    assert rendering.js("return window.hit === undefined")


@pytest.mark.parametrize("text", ["*" * 20000, "[" * 20000, "> " * 5000 + "x", "`" * 20001, "<" * 20000, "_a " * 8000, "- " * 5000,
                                  "|" * 9000 + "\n" + "|-" * 400, "```" + "a" * 19000 + "`", "**a" * 9000, "#" + " " * 19000 + "x", "[a](" * 5000])
def test_markdown_takes_linear_time(rendering, text):
    started = time.monotonic()
    html = render(rendering, text)
    assert time.monotonic() - started < 3 and not html.startswith("failed")


def blocks(page):
    return json.load(urllib.request.urlopen(page.url + "/engine/state"))["frame"]


def expand(runs):
    ids = []
    for first, last in zip(runs[::2], runs[1::2]):
        ids += range(first, last + 1) if first <= last else range(first, last - 1, -1)
    return ids


def step_label(page):
    return page.one("#step-label").text


def test_engine_view_pause_step_and_shared_blocks(page, server):
    page.open("engine")
    page.wait(lambda: page.texts("#tiles dd"))
    page.one("#pause").click()
    page.wait(lambda: page.one("#pause").text == "Resume" and blocks(page) is not None)
    page.js("const e = document.getElementById('example'); e.value = 'prefix'; e.dispatchEvent(new Event('change'))")
    page.wait(lambda: page.texts("#requests .badge") == ["waiting", "waiting"])  # seen although nothing runs
    before = blocks(page)["step"]

    seen_prefill = seen_shared = False
    for i in range(8):
        page.one("#single-step").click()
        page.wait(lambda: blocks(page)["step"] == before + i + 1)
        page.wait(lambda: f"step {before + i + 1:,}" in step_label(page))
        seen_prefill |= "prefill" in page.texts("#requests .badge")
        seen_shared |= blocks(page)["stats"]["running"] == 2
    assert seen_prefill and seen_shared
    assert blocks(page)["step"] == before + 8  # nothing ran by itself
    page.wait(lambda: page.texts("#requests .badge").count("decode") == 2 or page.texts("#requests .badge").count("running") == 2)
    tables = [expand(s["blocks"]) for s in blocks(page)["sequences"]]
    shared = set(tables[0]) & set(tables[1])
    assert len(shared) == 6  # 100 tokens in common, 16 a block

    # What the map says of a shared block, and that its cell is painted unlike a free one.
    tell = "return import('/web/block_map.js').then((m) => m.describeBlock(arguments[0]))"
    words = page.js(tell, min(shared))
    assert "2 references, shared" in words and "tokens" in words
    free = next(i for i in range(10**6) if i not in set(tables[0]) | set(tables[1]))
    assert "free" in page.js(tell, free)
    assert page.js("const c = document.getElementById('blocks'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
                   "const seen = new Set(); for (let i = 0; i < d.length; i += 4) seen.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); return seen.size") > 3

    # By the keyboard: the map tells about one block after the other.
    page.js("document.getElementById('blocks').focus({focusVisible: true})")
    page.one("#blocks").send_keys(Keys.ARROW_RIGHT)
    assert "Block" in page.one("#block-live").get_attribute("textContent")

    # Back through the steps, and to now.
    page.js("const h = document.getElementById('history'); h.value = 0; h.dispatchEvent(new Event('input'))")
    page.wait(lambda: page.one("#follow").is_displayed())
    assert step_label(page) != f"step {before + 8:,}"
    page.one("#follow").click()
    page.wait(lambda: f"{before + 8:,}" in step_label(page))
    page.one("#pause").click()
    page.wait(lambda: page.texts("#requests .empty"))
    after = blocks(page)
    assert after["stats"]["kv_blocks_used"] == 0 and len(expand(after["cached"])) >= 6


def test_pausing_with_many_requests_under_way(page):
    """A browser has six connections to a server: examples must not take them all."""
    page.open("engine")
    page.wait(lambda: page.texts("#tiles dd"))
    page.one("#pause").click()
    page.wait(lambda: page.one("#pause").text == "Resume")
    for _ in range(2):
        page.js("const e = document.getElementById('example'); e.value = 'many'; e.dispatchEvent(new Event('change'))")
    page.wait(lambda: page.texts("#requests .badge") == ["waiting"] * 24)
    page.one("#single-step").click()
    page.wait(lambda: "prefill" in page.texts("#requests .badge"))
    page.one("#pause").click()
    page.wait(lambda: page.one("#pause").text == "Pause")
    page.wait(lambda: page.texts("#requests .empty"))


def test_what_waits_outside_the_engine_is_shown(browser):
    with Server("--max-num-seqs", 2) as server:
        page = Page(browser, server.url)
        page.open("engine")
        page.wait(lambda: page.texts("#tiles dd"))
        page.one("#pause").click()
        page.wait(lambda: page.one("#pause").text == "Resume")
        clients = [server.connect().send(head(body=completion(prompt=[5] * (i + 1), max_tokens=200, stream=True))) for i in range(6)]
        page.wait(lambda: page.texts("#requests .badge") == ["waiting"] * 2 + ["queued"] * 4)
        assert page.texts("#requests-note") == ["0 running, 6 waiting"]
        queue = blocks(page)["queue"]
        assert queue["count"] == len(queue["first"]) == 4 and all(entry["prompt"] > 0 for entry in queue["first"])
        page.one("#pause").click()
        page.wait(lambda: page.texts("#requests .empty"))
        for client in clients:
            assert stream_events(client.response()[2])
            client.close()
        assert blocks(page)["queue"] == {"count": 0, "first": []}
        browser.get("about:blank")
    browser.get_log("browser")


def test_a_paused_engine_goes_on_when_the_last_viewer_leaves(page, server):
    page.open("engine")
    page.wait(lambda: page.texts("#tiles dd"))
    page.one("#pause").click()
    page.wait(lambda: page.one("#pause").text == "Resume")
    page.browser.get("about:blank")
    answer = server.answer("/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 3, "ignore_eos": True})
    assert answer["usage"]["completion_tokens"] == 3


def test_a_viewer_who_does_not_read_costs_nothing(server):
    """Its connection fills up and it misses steps; answers come as always."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/engine/steps")
    try:
        started = time.monotonic()
        for _ in range(4):
            server.answer("/v1/completions", {"prompt": [[i] * 30 for i in range(5, 25)], "max_tokens": 300, "ignore_eos": True})
        assert time.monotonic() - started < 30
        assert server.memory() < 200e6
    finally:
        connection.close()


def test_viewers_do_not_hold_up_the_end():
    with Server() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", "/engine/steps")
        response = connection.getresponse()
        assert response.headers["Content-Type"] == "text/event-stream" and response.readline() == b"event: hello\n"
        assert server.stop(30) == 0
        connection.close()


@pytest.mark.parametrize("width, height", [(390, 800), (1280, 900)])
def test_fits_phones_and_desks(page, width, height):
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
    try:
        for view in "chat", "engine":
            page.open(view)
            page.wait(lambda: view == "chat" or page.texts("#tiles dd"))
            assert page.js("return document.documentElement.scrollWidth <= innerWidth")
            for theme in range(2):
                page.one("#theme").click()
                assert page.js("return getComputedStyle(document.body).backgroundColor !== getComputedStyle(document.body).color")
        page.one("#open-settings").click()
        assert page.one("#set-temperature").is_displayed()
        page.one("body").send_keys(Keys.ESCAPE)
        page.wait(lambda: not page.one("#settings").is_displayed())
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_key_is_kept_only_if_asked(page):
    page.set(key="secret-key")
    assert "secret-key" not in page.js("return JSON.stringify(localStorage)")
    page.js("document.getElementById('set-remember').click()")
    assert "secret-key" in page.js("return JSON.stringify(localStorage)")


def test_a_server_with_keys(browser, tmp_path):
    """Chatting takes a key, watching the engine an admin's; without one the page says so."""
    keys = {"user-key": False, "admin-key": True}
    entries = [{"name": key, "key_sha256": hashlib.sha256(key.encode()).hexdigest(), "admin": admin} for key, admin in keys.items()]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": entries}))
    with Server("--api-key-file", tmp_path / "keys.json") as server:
        assert server.request("GET", "/engine/state")[0] == 401
        assert server.request("POST", "/engine/pause", {}, {"Authorization": "Bearer user-key"})[0] == 403
        page = Page(browser, server.url)
        page.open()
        page.set(max_tokens="4")
        page.send("hello")
        page.wait(lambda: page.texts(".message .error"))
        assert "API key" in page.texts(".message .error")[0]
        page.set(key="user-key")
        page.one(".message .error button").click()
        page.answer()
        assert not page.texts(".message .error")
        page.one("#tab-engine").click()
        page.wait(lambda: page.one("#engine-notice").is_displayed())
        page.set(key="admin-key")
        page.one("#tab-chat").click()
        page.one("#tab-engine").click()
        page.wait(lambda: page.texts("#tiles dd"))
        browser.get("about:blank")
    browser.get_log("browser")


def test_models_without_chat_template_or_tokenizer(browser, tmp_path):
    plain = tmp_path / "plain"  # goes on with the text
    shutil.copytree(TINY / "llama-chat", plain)
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((plain / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (plain / "tokenizer_config.json").write_text(json.dumps(config))
    for model, error in [(plain, None), (TINY / "llama", "has no tokenizer")]:
        with Server(model=model) as server:
            page = Page(browser, server.url)
            page.open()
            page.wait(lambda: "goes on with your text" in page.one("#composer-hint").text)
            page.set(max_tokens="4")
            page.send("x")
            page.wait(lambda: not page.running() and page.all(".message.assistant footer > *"))
            assert error in page.texts(".message .error")[0] if error else not page.texts(".message .error")
            browser.get("about:blank")
    browser.get_log("browser")
