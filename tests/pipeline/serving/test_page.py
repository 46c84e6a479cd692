"""The page for people, in a real browser."""

import asyncio
import hashlib
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from browser import Browser

from pipeline.serving.pages import locked_up

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(not BROWSER, reason="needs Chromium")


def shown(address: str, folder) -> str:
    """The document as the browser has it once its scripts have run."""
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
            "--virtual-time-budget=5000", "--dump-dom", address,
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout


@in_browser
def test_it_shows_samples_and_versions_with_decisions_and_figures(live, settings, tmp_path):
    with live(settings) as address:
        page = shown(f"{address}/", tmp_path)
    assert '<h1 id="name">dots version 1</h1>' in page
    assert len(re.findall(r'<img src="data:image/png;base64,\w', page)) == 40
    assert 'alt="image 1 of seed 0, class on"' in page
    assert "40 images of version 1, seed 0, in" in page
    assert "worse than version 1" in page and "<dt>distance</dt><dd>21.5</dd>" in page
    assert 'href="v1/versions/3/report"' in page


@in_browser
def test_a_report_is_shown_and_runs_nothing(live, settings, tmp_path):
    with live(settings) as address:
        page = shown(f"{address}/v1/versions/4/report", tmp_path)
    assert "measured" in page and ">ran<" not in page


def test_a_report_takes_its_policy_along_before_all_that_it_governs(ask):
    async def act(client, _):
        return (await client.get("/v1/versions/4/report")).text

    before, _, after = ask(act).partition("<!doctype html>")
    assert before == ""
    policy, _, rest = after.partition(">")
    assert policy.startswith('<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:')
    assert rest.startswith("<p>measured<script>")
    assert locked_up(b"<script>").startswith(b"<meta http-equiv")


@in_browser
def test_a_report_that_was_saved_runs_nothing_either(ask, tmp_path):
    async def act(client, _):
        return (await client.get("/v1/versions/4/report")).content

    saved = tmp_path / "saved.html"
    saved.write_bytes(ask(act))
    page = shown(saved.as_uri(), tmp_path / "browser")
    assert "measured" in page and ">ran<" not in page


@in_browser
def test_with_a_token_it_asks_for_it_and_shows_nothing(live, settings, tmp_path):
    with live(replace(settings, token_sha256="0" * 64)) as address:
        page = shown(f"{address}/", tmp_path)
    assert "This service wants a token." in page and '<form id="enter">' in page
    assert "<img" not in page and "dots" not in page


@in_browser
def test_it_is_used_by_keys_alone(live, settings, tmp_path):
    first = "document.querySelector('#images img')?.src"

    async def act(address: str) -> None:
        async with Browser(str(BROWSER), tmp_path, f"{address}/") as page:
            before = await page.until(first)
            await page.press("Tab")
            assert await page.says("document.activeElement.id") == "seed"
            assert await page.says("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            await page.press("7")  # over the 0 that was selected
            await page.press("Enter")
            await page.until("by('status').textContent.includes('seed 7')")
            assert await page.says(first) != before
            seen = []
            while "evaluation of version 3" not in seen:
                await page.press("Tab")
                seen.append(await page.says("document.activeElement.ariaLabel || document.activeElement.textContent"))
                assert len(seen) < 20, seen
            assert seen.index("Show") < seen.index("Next seed") < seen.index("evaluation of version 4")

    with live(settings) as address:
        asyncio.run(act(address))


@in_browser
def test_with_a_token_a_report_is_saved_under_its_own_versions_name(live, settings, tmp_path):
    guarded = replace(settings, token_sha256=hashlib.sha256(b"s3cret").hexdigest())

    async def act(address: str) -> None:
        async with Browser(str(BROWSER), tmp_path / "browser", f"{address}/") as page:
            await page.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
            await page.until("!by('enter').hidden && document.activeElement.id === 'token'")
            for letter in "s3cret":
                await page.press(letter)
            await page.press("Enter")
            link = "document.querySelector('a[href=\"v1/versions/4/report\"]')"
            await page.until(f"{link} !== null")
            await page.says(f"{link}.click()")
            while not (saved := tmp_path / "dots-version-4.html").exists():
                await asyncio.sleep(0.05)
            assert b"Content-Security-Policy" in saved.read_bytes()

    with live(guarded) as address:
        asyncio.run(asyncio.wait_for(act(address), 30))


def test_pages_need_nothing_from_elsewhere_and_every_control_has_a_name(ask):
    async def act(client, _):
        return [await client.get(path) for path in ("/", "/docs")]

    front, docs = ask(act)
    for page in (front, docs):
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', page.text)
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "'sha256-" in policy
    controls = set(re.findall(r'<(?:input|select) id="([\w-]+)"', front.text))
    assert controls and controls == set(re.findall(r'<label for="([\w-]+)"', front.text))
    for name in ("n", "seed", "label", "truncation", "format"):
        assert f'<th scope="row"><code>{name}</code></th>' in docs.text
