"""The web page in real Chromium, light and dark: chat with streaming and stop, status with load and unload, the API console.
Usage: page.py FAKE_SERVER [FOLDER_FOR_SCREENSHOTS]"""

import sys

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(77)

from fake_server import FakeServer
from page_browser import CHROMIUM, FLAGS


def chat(page, url):
    page.goto(url)
    expect(page.locator("#model")).to_have_value("llm")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("Hello <b>wide</b> world")
    page.keyboard.press("Enter")
    expect(page.locator("#messages .user")).to_have_text("Hello <b>wide</b> world")
    expect(page.locator("#messages .assistant")).to_have_text("Hello <b>wide</b> world")
    expect(page.locator("#rates")).to_contain_text("tokens")
    page.locator("#system").fill("Be brief.")
    assert '"role": "system"' in page.locator("#request-json").text_content()
    page.locator("#template-box summary").click()
    expect(page.locator("#template")).to_contain_text("for m in messages")
    page.locator("#prompt").fill("fail")
    page.keyboard.press("Enter")
    expect(page.locator("#messages .error")).to_have_text("the prompt asks for a failure")
    page.locator("#clear").click()
    expect(page.locator("#messages li")).to_have_count(0)


def stop(page, url):
    held = []
    # An answer that never comes.
    page.route("**/v1/chat/completions", lambda route: held.append(route))
    page.goto(url)
    expect(page.locator("#model")).to_have_value("llm")
    page.locator("#prompt").fill("wait")
    page.keyboard.press("Enter")
    expect(page.locator("#stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_visible()
    page.unroute_all(behavior="ignoreErrors")


def status(page, url):
    page.goto(url + "#status")
    expect(page.locator("#chat")).to_be_hidden()
    row = page.locator("#models tr", has=page.locator("td:first-child", has_text="raw"))
    expect(row).to_contain_text("READY")
    button = row.get_by_role("button", name="unload raw")
    button.focus()
    page.wait_for_timeout(2300)  # the table is drawn anew every two seconds
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(row).to_contain_text("unloaded")
    row.get_by_role("button").click()
    expect(row).to_contain_text("READY")
    expect(page.locator("#health")).to_have_text("ready")
    expect(page.locator("#tiles .tile")).to_have_count(7)


def console(page, url):
    page.goto(url + "#console")
    page.locator("#call").select_option(label="Generate  (POST /v2/models/{m}/generate)")
    expect(page.locator("#call-curl")).to_contain_text("/v2/models/llm/generate")
    page.locator("#call-body").press("Control+Enter")
    expect(page.locator("#call-status")).to_contain_text("200 OK")
    expect(page.locator("#call-answer")).to_contain_text("What is machine learning?")
    page.keyboard.press("Alt+1")
    expect(page.locator("#chat")).to_be_visible()
    expect(page.locator("#console")).to_be_hidden()


def main():
    if CHROMIUM is None:
        print("skipped: no chromium found, name it in INGOT_CHROMIUM")
        sys.exit(77)
    with FakeServer(sys.argv[1]) as server, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        url = f"http://localhost:{server.http_port}/"
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 800})
            failures = []
            page.on("pageerror", lambda e: failures.append(str(e)))
            for check in (chat, stop, status, console):
                check(page, url)
                if len(sys.argv) > 2:
                    page.screenshot(path=f"{sys.argv[2]}/{check.__name__}_{scheme}.png")
            assert not failures, failures
            page.close()
        browser.close()
    print("page: all passed")


main()
