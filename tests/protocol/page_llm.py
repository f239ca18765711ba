"""The web page in real Chromium against a real model: a chat, then the KV map, the charts and every call of the console.
Usage: page_llm.py INGOT DEMO_DIR [FOLDER_FOR_SCREENSHOTS]"""

import os
import sys

import llm_server

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(1 if os.environ.get("CI") else 77)

from page_browser import CHROMIUM, FLAGS


def use(page, url, shot):
    page.goto(url)
    page.locator("#max-tokens").fill("24")
    page.locator("#system").fill("You are a helpful assistant who answers in few words and never says more than was asked. " * 8)  # fills pages
    page.locator("#prompt").fill("Name three colours.")
    page.keyboard.press("Enter")
    expect(page.locator("#rates")).to_contain_text("tokens/s", timeout=20000)
    assert len(page.locator("#messages .assistant").text_content()) > 5
    page.locator("#template-box summary").click()
    expect(page.locator("#template")).to_contain_text("im_start")
    shot("chat")
    page.keyboard.press("Alt+2")
    cells = page.locator(".kv-map i")
    expect(cells.first).to_be_visible()
    assert cells.count() > 50, cells.count()
    expect(page.locator(".kv-map i.kept").first).to_be_visible()
    assert page.locator(".kv-map").count() == 1  # all models share one engine
    for _ in range(2):  # points for the charts
        page.evaluate("""fetch('/v2/models/ensemble/generate', {method: 'POST', body: JSON.stringify({text_input: 'One two', max_tokens: 12, end_id: -1})})""")
        page.wait_for_timeout(2300)
    for chart in ("ttft", "itl", "rate"):
        assert page.locator(f"#{chart} path.line").get_attribute("d"), chart
    expect(page.locator("#itl-now")).not_to_have_text("–")
    shot("status")


def console(page, url, shot):
    page.goto(url + "#console")
    page.locator("#call-model").select_option("ensemble")
    for option in page.locator("#call option").all_text_contents():
        page.locator("#call").select_option(label=option)
        if "oad model" in option:
            continue  # the server's mode has no load and unload
        body = page.locator("#call-body").input_value()
        if '"max_tokens": 64' in body or '"max_output_tokens": 64' in body:
            page.locator("#call-body").fill(body.replace("64", "4"))
        expect(page.locator("#call-curl")).to_contain_text("curl")
        page.locator("#call-send").click()
        expect(page.locator("#call-status")).to_contain_text("200 OK", timeout=20000)
    shot("console")


def main():
    if CHROMIUM is None:
        print("skipped: no chromium found, name it in INGOT_CHROMIUM")
        sys.exit(1 if os.environ.get("CI") else 77)
    engine = llm_server.engine_or_skip(sys.argv[2])
    with llm_server.LlmServer(sys.argv[1], engine) as server, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(color_scheme="dark", viewport={"width": 1200, "height": 900})
        failures = []
        page.on("pageerror", lambda e: failures.append(str(e)))
        shot = lambda name: len(sys.argv) > 3 and page.screenshot(path=f"{sys.argv[3]}/llm_{name}.png")
        use(page, f"http://localhost:{server.http}/", shot)
        console(page, f"http://localhost:{server.http}/", shot)
        assert not failures, failures
        browser.close()
    print("page on a real model: all passed")


main()
