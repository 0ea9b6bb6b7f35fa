"""The console in a headless Chromium, over sagas of the demonstration: what people do there, and for whom it works."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
import yaml
from support.chromium import IMAGES, Window, axe, chromium, window
from support.console import OPERATOR, VIEWER, console, with_tokens
from support.snapshots import make
from support.tiers import Places, Product, config, product

from sagaz_tiering.console import serve_console
from sagaz_tiering.console.views import VIEWS
from sagaz_tiering.daemon.health import without_daemon
from sagaz_tiering.demo.runtime import POLICIES
from sagaz_tiering.demo.sagas import GAPS_DAYS, run_newer

pytestmark = pytest.mark.slow


@pytest.fixture
async def shop(places: Places) -> AsyncIterator[Product]:
    """Sagas of the last months in every tier."""
    async with product(config(**places, **yaml.safe_load(POLICIES))) as found:
        gaps_days = GAPS_DAYS if IMAGES in os.environ else (93, 20, 0)
        sagas = 3 * len(gaps_days)  # one of each kind at a time
        recorder = await run_newer(found.runtime, found.clock, sagas, first=0, gaps_days=gaps_days)
        assert recorder.refused == []
        yield found


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    async with chromium() as found:
        yield found


async def log_in(seen: Window, address: str, token: str, name: str) -> None:
    """By the form, as people do."""
    await seen.page.goto(f"{address}/")
    await seen.page.get_by_label("Token").fill(token)
    await seen.page.get_by_label("Your name").fill(name)
    await seen.page.get_by_role("button", name="Log in").click()
    await seen.page.get_by_role("heading", name="Overview").wait_for()


async def one_of(shop: Product, **wanted: Any) -> tuple[str, str]:
    """The id of such a saga, and the number that people know it by."""
    found = (await shop.storage.find(**wanted, limit=1)).items[0]
    return str(found.saga_id), next(iter(found.attributes.values()))[0]


async def test_from_a_number_to_a_receipt(shop: Product, browser: Any) -> None:
    """Overview, search, timeline, slider, difference, restore, hold, release, forget: by mouse and keyboard.

    Nothing is refused by the page's policy, no script fails.
    """
    hot, _ = await one_of(shop, saga_name="payment-*", tier="hot", status="completed")
    saga, number = await one_of(shop, saga_name="payment-*", created=(None, shop.clock.now() - timedelta(days=91)))
    async with console(shop, with_tokens()) as address, window(browser) as seen:
        page = seen.page
        await log_in(seen, address, OPERATOR, "ann")
        await page.goto(f"{address}/sagas/{hot}")
        await slide(page)
        await seen.picture("saga")
        await page.get_by_role("link", name="what it changed").click()
        await page.locator("table.changes tbody tr").first.wait_for()
        await seen.picture("difference")
        await page.get_by_role("link", name="Sagas", exact=True).first.click()
        await page.get_by_role("searchbox").fill(number)
        await page.keyboard.press("Enter")
        await page.get_by_role("link", name="payment-transfer").click()
        await page.wait_for_url(f"**/{saga}")
        await page.get_by_text("archived in GLACIER").wait_for()
        await seen.picture("archived")
        await restore(page, shop, saga, address)
        await hold_and_release(page)
        await forget(seen, saga, address)
        await page.goto(f"{address}/audit")
        assert await page.locator("tbody tr").count() == 4
        assert seen.wrong == []
    if IMAGES in os.environ:
        await picture_of_a_daemon(shop, browser)
    assert await shop.storage.timeline(saga) == []


async def picture_of_a_daemon(shop: Product, browser: Any) -> None:
    """The overview, once every job has run."""
    async with (
        without_daemon(shop.runtime) as state,
        serve_console(with_tokens(), state) as (host, port),
        window(browser) as seen,
    ):
        await log_in(seen, f"http://{host}:{port}", OPERATOR, "ann")
        while await seen.page.get_by_text("never", exact=True).count() or state.schedule.running:
            await seen.page.wait_for_timeout(500)
            await seen.page.reload()
        shop.clock.advance(timedelta(minutes=4))
        await seen.page.reload()
        await seen.picture("overview", full=True)


_WATCH = """() => {
    window.seen = [];
    const slider = document.getElementById("instant"), marks = [...document.querySelectorAll(".axis circle")];
    new MutationObserver(() => {
        const shown = document.querySelector("#state article").dataset.ms;
        const chosen = marks.findIndex((mark) => mark.classList.contains("chosen"));
        seen.push([slider.value, shown, String(chosen)]);
    }).observe(document.getElementById("state"), {childList: true});
}"""
"""What is seen of the slider, the state and the axis whenever another state is there."""

_TWICE_LEFT = """(slider) => {
    let given_up = 0;
    document.addEventListener("htmx:sendAbort", () => { given_up += 1; });
    for (let i = 0; i < 2; i += 1) {
        slider.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
    }
    return given_up;
}"""


async def slide(page: Any) -> None:
    """The slider goes to any instant by mouse, and from snapshot to snapshot by keys; the state follows."""
    slider, state = page.locator("#instant"), page.locator("#state article")
    await state.wait_for()
    last = int(await state.get_attribute("data-n"))
    box = await slider.bounding_box()
    await page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    await page.locator(f"#state article:not([data-n='{last}'])").wait_for()
    middle = int(await state.get_attribute("data-n"))
    assert 0 <= middle < last
    instant, made = int(await slider.input_value()), int(await state.get_attribute("data-ms"))
    assert made < instant
    await slider.press("ArrowLeft")  # to the snapshot that is shown, then to the one after
    assert int(await slider.input_value()) == made
    await slider.press("ArrowRight")
    await page.locator(f"#state article[data-n='{middle + 1}']").wait_for()
    assert await page.locator(".axis circle.chosen").count() == 1
    await page.evaluate(_WATCH)
    await page.get_by_role("link", name="← before").click()
    await page.locator(f"#state article[data-n='{middle}']").wait_for()
    assert await page.evaluate("seen") == [[str(made), str(made), str(middle)]]
    assert int(await slider.input_value()) == made
    assert await page.locator("tr.chosen").inner_text() != ""
    await page.locator(".tree summary").nth(1).click()
    assert await page.locator(".tree .tree, .tree details[open]").count() >= 2


async def test_what_is_asked_for_last_is_what_is_shown(shop: Product, browser: Any) -> None:
    """A late answer to an earlier question moves neither the state nor the slider back."""
    saga, _ = await one_of(shop, saga_name="payment-*", tier="hot", status="completed")
    slow, held = asyncio.Event(), asyncio.Queue[Any]()

    async def hold(route: Any) -> None:
        held.put_nowait(route.request)
        await slow.wait()
        with suppress(Exception):  # nobody may wait for it any more
            await route.continue_()

    async with console(shop, with_tokens()) as address, window(browser) as seen:
        page, slider, state = seen.page, seen.page.locator("#instant"), seen.page.locator("#state article")
        await log_in(seen, address, VIEWER, "vic")
        await page.goto(f"{address}/sagas/{saga}")
        await state.wait_for()
        last = int(await state.get_attribute("data-n"))
        await page.route(f"**/state?n={last - 1}", hold)
        await page.get_by_role("link", name="← before").click()
        late = await held.get()
        assert await slider.evaluate(_TWICE_LEFT) == 1  # the link's question is given up at once
        await page.locator(f"#state article[data-n='{last - 2}']").wait_for()
        slow.set()
        await late.response()
        await page.evaluate("new Promise((done) => setTimeout(done, 100))")
        shown = await state.get_attribute("data-n"), await state.get_attribute("data-ms")
        assert shown == (str(last - 2), await slider.input_value())
        await page.unroute_all()
        await page.goto(f"{address}/sagas/{saga}/state?n=1")  # the part alone
        await page.get_by_role("link", name="← before").click()
        await page.locator("#state article[data-n='0']").wait_for()
        assert seen.wrong == []


async def restore(page: Any, shop: Product, saga: str, address: str) -> None:
    """Asked for on the page; READY there once the job brought it, and then it is read."""
    form = page.locator(f"form[action='/sagas/{saga}/restore']").last
    await form.get_by_label("How fast").select_option("Standard")
    await form.get_by_role("button", name="Restore").click()
    await page.get_by_role("heading", name="RESTORING").wait_for()
    for _ in range(3):
        await shop.run("restore")
        shop.clock.advance(timedelta(hours=6))
    await page.reload()
    await page.get_by_role("heading", name="READY").wait_for()
    await page.goto(f"{address}/sagas/{saga}")
    await page.locator("#state .tree").wait_for()


async def hold_and_release(page: Any) -> None:
    """Held until it is released, with a reason for each."""
    await page.get_by_label("Case or order").fill("case 7")
    await page.get_by_role("button", name="Hold").click()
    await page.locator(".held-note").wait_for()
    await page.get_by_label("Why it may go").fill("case closed")
    await page.get_by_role("button", name="Release").click()
    await page.get_by_text("Nothing is held.").wait_for()


async def forget(seen: Window, saga: str, address: str) -> None:
    """Only with the id typed again; the receipt says what went."""
    page = seen.page
    await page.goto(f"{address}/sagas/{saga}")
    await page.get_by_label("Order or request").fill("art. 17")
    await page.get_by_label("The saga's id, typed again").fill(saga)
    await page.get_by_role("button", name="Forget for good").click()
    await page.get_by_role("heading", name="Erasure receipt").wait_for()
    await seen.picture("receipt")


async def test_everybody_can_use_every_page(shop: Product, browser: Any, request: pytest.FixtureRequest) -> None:
    """axe-core finds nothing serious on any page, light and dark; nothing is wider than a narrow screen."""
    script = axe(request.config.cache.mkdir("axe-core"))
    saga, _ = await one_of(shop, saga_name="order-*", tier="hot")
    restored, _ = await one_of(shop, saga_name="payment-*", created=(None, shop.clock.now() - timedelta(days=91)))
    found = await shop.storage.restore(saga_id=restored)
    await shop.storage.hold(saga, "case 7")
    receipt = await shop.storage.forget((await one_of(shop, saga_name="health-*"))[0])
    names = {"saga_id": saga, "erasure_id": receipt.erasure_id, "restore_id": found.restore_id, "pack_id": 1}
    paths = ["/login", *(view.path.format(**names) for view in VIEWS), f"/sagas/{restored}", "/nothing"]
    wrong: list[str] = []
    async with console(shop, with_tokens()) as address:
        for theme, width in (("light", 400), ("dark", 1280)):
            async with window(browser, theme=theme, width=width) as seen:
                await log_in(seen, address, OPERATOR, "ann")
                for path in paths:
                    await seen.page.goto(address + path)
                    await seen.page.locator(".later").wait_for(state="detached")
                    wrong += [f"{theme} {path}: {each}" for each in await violations(seen.page, script)]
                    if await seen.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                        wrong.append(f"{width} px {path}: is wider than the screen")
                    if path == f"/sagas/{saga}":
                        await seen.picture("narrow" if width < 800 else theme)
                assert [text for text in seen.wrong if "404" not in text] == []
    assert wrong == []


async def violations(page: Any, script: str) -> list[str]:
    """What axe-core calls serious or critical."""
    await page.evaluate(script)
    await page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    found = await page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{each['id']}: {each['help']}: {node['html'][:200]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"][:3]
    ]


async def test_reads_without_scripts(shop: Product, browser: Any) -> None:
    """What is behind the first paint is a link away."""
    saga, _ = await one_of(shop, saga_name="order-*", tier="cold")
    async with console(shop, with_tokens()) as address:
        context = await browser.new_context(java_script_enabled=False)
        page = await context.new_page()
        seen = Window(page)
        await log_in(seen, address, VIEWER, "vic")
        await page.goto(f"{address}/sagas/{saga}")
        await page.get_by_role("link", name="Show it").click()
        await page.locator(".tree .key").nth(5).wait_for(state="attached")
        await page.goto(f"{address}/sagas/{saga}/diff")
        await page.get_by_role("link", name="Show it").click()
        await page.locator("table.changes tbody tr").first.wait_for()
        await context.close()


HOSTILE = (
    "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    "\" autofocus onfocus=\"document.title = 'taken'\" x='</title></textarea></svg>\u202e\x1b{{7*7}}"
)


async def test_hostile_sagas_are_text_in_a_browser(places: Places, browser: Any) -> None:
    """Markup in names, steps, contexts, attributes, reasons: none of it runs, and no policy has to refuse it."""
    settings = config(**places, attributes=[{"name": "order_id", "path": "order"}])
    saga = uuid4()
    async with product(settings) as shop, console(shop, with_tokens()) as address, window(browser) as seen:
        for n in range(2):
            made = make(
                n,
                snapshot_id=uuid4(),
                saga_id=saga,
                saga_name=HOSTILE,
                step_name=HOSTILE,
                created_at=shop.clock.now() + timedelta(seconds=n),
                context={"order": HOSTILE, HOSTILE: {HOSTILE: [n, HOSTILE]}},
            )
            await shop.storage.save_snapshot(made)
        await shop.storage.hold(saga, HOSTILE)
        await shop.runtime.catalog.quarantine.record("object", HOSTILE, HOSTILE, shop.clock.now())
        seen.page.on("dialog", lambda dialog: seen.wrong.append(dialog.message))
        await log_in(seen, address, OPERATOR, HOSTILE)
        for path in (
            *("/", "/sagas", f"/sagas?q={quote(HOSTILE)}", f"/sagas?name={quote(HOSTILE)}&step={quote(HOSTILE)}"),
            *(f"/sagas/{saga}", f"/sagas/{saga}/diff", f"/sagas/{saga}/changes", "/holds", "/quarantine"),
            f"/{quote(HOSTILE)}",
        ):
            await seen.page.goto(address + path)
            await seen.page.locator(".later").wait_for(state="detached")
            found = await seen.page.evaluate(
                "[document.title, document.querySelectorAll('main script, main img, [onerror], [onfocus]').length]"
            )
            assert ("taken" in found[0], found[1]) == (False, 0), path
        assert [text for text in seen.wrong if "404" not in text] == []
