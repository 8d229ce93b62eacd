"""The page as files: nothing from elsewhere, nothing inline, the reports' colours."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from speechprompt import evaluation
from speechprompt.server.page import page_files

FILES = {name: content.decode() for name, content in page_files().items()}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}


class Addresses(HTMLParser):
    """Collects what a document refers to, and what a strict policy would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.referred: set[str] = set()
        self.ids: set[str] = set()
        self.refused: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.referred |= {value for key in ("href", "src", "action") if (value := values.get(key))}
        self.ids |= {value for key in ("id",) if (value := values.get(key))}
        self.refused += [f"{tag} {name}" for name in values if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in values):
            self.refused.append(tag)


def index() -> Addresses:
    parser = Addresses()
    parser.feed(FILES["index.html"])
    return parser


def test_index_refers_to_files_that_are_served(client: TestClient) -> None:
    found = index()
    assert not found.refused
    for address in found.referred:
        if address.startswith("#"):
            assert address[1:] in found.ids
        else:
            assert client.get(f"/{address}").status_code == 200, address
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_import_files_and_names_that_exist(name: str) -> None:
    for names, file in re.findall(r"import \{([^}]+)\} from \"\./([^\"]+)\"", SCRIPTS[name]):
        for one in names.split(","):
            assert re.search(rf"export (async )?(function|class|const) {one.strip()}\b", SCRIPTS[file]), one
    for identity in re.findall(r"\bat\(\"([\w-]+)\"\)", SCRIPTS[name]):
        assert identity in index().ids


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_elsewhere_and_no_markup_is_made_of_strings(name: str) -> None:
    text = FILES[name].replace("http://www.w3.org/", "")
    assert not re.search(r"https?://|//[a-z0-9-]+\.[a-z]", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )


def test_the_policy_allows_this_server_only(client: TestClient) -> None:
    for path in ("/", "/page/app.js"):
        headers = client.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert policy["frame-ancestors"] == policy["form-action"] == policy["trusted-types"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"


def test_files_are_revalidated_and_nothing_else_is_served(client: TestClient) -> None:
    tag = client.get("/page/app.js").headers["etag"]
    again = client.get("/page/app.js", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head("/").status_code == 200
    for name in ("__init__.py", "index.html", "nothing.js", "..%2fapp.py", "../app.py"):
        assert client.get(f"/page/{name}").status_code == 404


def test_the_palette_is_the_reports() -> None:
    report = (Path(evaluation.__file__).parent / "templates" / "style.html").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in report.split("@media", 2)[:2])
    ours = dict(re.findall(r"--([\w-]+): light-dark\((.+?)\);", FILES["base.css"]))
    assert ours == {name: f"{light[name]}, {dark[name]}" for name in light}
