"""Gradio's queue shared among visitors and addresses: shares, order, what nobody listens to, and one greedy cookie."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import fastapi
import gradio as gr
import httpx
import pytest
from gradio.data_classes import PredictBodyInternal
from gradio.server_messages import ProcessCompletedMessage

from rmx.engine.fair_queue import RequestOwner
from rmx.models.site_rules import SiteRules
from rmx.models.workspace import Workspace
from rmx.ui.page import build_app
from rmx.ui.server.queue_shares import UNHEARD, Shares, share_queue
from rmx.ui.settings import Settings
from rmx.ui.visitor_cookie import Owners
from tests.helpers.live import mini_and_slow, running, until
from tests.security.load import Seen, Tab, follow, stranger

pytestmark = pytest.mark.slow

ALL = Shares(visitor=3, address=5)


def named(request):
    return request.who


@pytest.fixture
def queue():
    """A shared queue of a page with a slow event, a quick one and two plans; nothing is processed by itself."""
    with gr.Blocks(analytics_enabled=False) as page:
        box, button = gr.Textbox(), gr.Button()
        button.click(lambda: "slow", None, box, concurrency_id="engine", concurrency_limit=4)
        button.click(lambda: "quick", None, box)
        for _ in range(2):
            button.click(lambda: ("a", "b"), None, [box, box], concurrency_id="plan", concurrency_limit=1)
    page.queue(max_size=100)
    left = []
    share_queue(page, named, ALL, [left.append])
    queue = page._queue
    queue.left = left
    queue.active_jobs = [None] * 40
    return queue


def run(coroutine):
    """In a thread of its own: the browser tests leave a running loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def join(queue, owner, address=None, fn_index=0, session=None):
    """Push an event; returns its id."""
    request = SimpleNamespace(who=RequestOwner(owner, address))
    body = PredictBodyInternal(session_hash=session or owner, fn_index=fn_index, data=[])
    done, event, _ = run(queue.push(body, request, None))
    assert done
    return event


def run_next(queue):
    """The next event that may run, which then runs; None where there is none."""
    found = queue.get_events()
    if found is None:
        return None
    (event,), _, group = found
    queue.event_queue_per_concurrency_id[group].current_concurrency += 1
    queue.active_jobs[queue.active_jobs.index(None)] = [event]
    return event


# -- shares -----------------------------------------------------------------------------------------------------------


def test_a_visitor_has_a_share_of_the_places_and_so_has_an_address(queue):
    for _ in range(3):
        join(queue, "anna", "here")
    with pytest.raises(fastapi.HTTPException, match="3 requests of yours") as refused:
        join(queue, "anna", "here")
    assert (refused.value.status_code, refused.value.headers) == (429, {"Retry-After": "2"})
    join(queue, "ben", "here"), join(queue, "carl", "here")
    with pytest.raises(fastapi.HTTPException, match="5 requests from your network"):
        join(queue, "dora", "here")
    join(queue, "dora", "there")
    assert len(queue) == 6


def test_what_runs_counts_as_well_as_what_waits(queue):
    ids = [join(queue, "anna") for _ in range(3)]
    first = run_next(queue)
    with pytest.raises(fastapi.HTTPException, match="3 requests of yours"):
        join(queue, "anna")
    queue.event_ids_to_events.pop(first._id)  # as gradio does at its end
    assert first._id == ids[0]
    join(queue, "anna")


def test_a_stream_beside_the_queue_counts_as_long_as_it_is_read(queue):
    anna = RequestOwner("anna", "here")
    with queue.share(anna), queue.share(anna), queue.share(anna):
        for ask in (lambda: join(queue, "anna"), lambda: queue.share(anna).__enter__()):
            with pytest.raises(fastapi.HTTPException, match="3 requests of yours"):
                ask()
        join(queue, "ben", "here"), join(queue, "carl", "here")
        with pytest.raises(fastapi.HTTPException, match="5 requests from your network"):
            queue.share(RequestOwner("dora", "here")).__enter__()
    join(queue, "anna", "here")


def test_a_private_app_has_no_shares(queue):
    queue.shares = Shares()
    for _ in range(20):
        join(queue, "anna", None)
    assert len(queue) == 20


# -- order ------------------------------------------------------------------------------------------------------------


def test_who_was_served_least_lately_goes_first(queue):
    for owner, address in (("anna", "there"), ("anna", "there"), ("ben", "there"), ("polite", "here")):
        join(queue, owner, address)
    order = [run_next(queue).who.owner for _ in range(2)]
    assert order == ["anna", "polite"]
    assert run_next(queue).who.owner == "ben"


def test_an_address_has_half_of_what_runs_at_the_same_time(queue):
    for name in ("a", "b", "c", "d"):
        join(queue, name, "there")
    running = [run_next(queue) for _ in range(4)]
    assert [event.who.owner if event else None for event in running] == ["a", "b", None, None]
    join(queue, "polite", "here")
    assert run_next(queue).who.owner == "polite"
    join(queue, "x", None), join(queue, "x", None)
    assert run_next(queue).who.owner == "x"  # addresses that are not told apart have no half
    assert run_next(queue) is None  # four run


def test_another_group_of_events_does_not_stand_behind_a_full_one(queue):
    for owner in "abcd":
        join(queue, owner, owner)
        run_next(queue)
    join(queue, "e", "e")
    assert run_next(queue) is None
    quick = join(queue, "e", "e", fn_index=1)
    assert run_next(queue)._id == quick


# -- plans ------------------------------------------------------------------------------------------------------------


def test_a_newer_plan_of_a_page_takes_the_place_of_the_one_that_waits(queue):
    running = join(queue, "anna", fn_index=2)
    assert run_next(queue)._id == running
    older, other = join(queue, "anna", fn_index=2), join(queue, "ben", fn_index=2)
    newer = join(queue, "anna", fn_index=3)
    assert [event._id for event in queue.event_queue_per_concurrency_id["plan"].queue] == [other, newer]
    assert older not in queue.event_ids_to_events
    messages = list(queue.pending_messages_per_session["anna"]._queue)
    (ended,) = [m for m in messages if isinstance(m, ProcessCompletedMessage)]
    assert ended.event_id == older
    assert ended.output["data"] == [{"__type__": "update"}] * 2  # nothing changes on the page


def test_plans_of_a_page_go_one_after_the_other(queue):
    """Side by side an older plan that takes longer would be the last word on the page."""
    join(queue, "anna", fn_index=2)
    older = run_next(queue)
    newer, other = join(queue, "anna", fn_index=3), join(queue, "ben", fn_index=2)
    queue.event_queue_per_concurrency_id["plan"].concurrency_limit = 3
    assert run_next(queue)._id == other
    assert run_next(queue) is None
    queue.active_jobs[queue.active_jobs.index([older])] = None
    assert run_next(queue)._id == newer


def test_a_plan_of_a_page_whose_messages_were_dropped_is_replaced_all_the_same(queue):
    join(queue, "anna", fn_index=2), run_next(queue)
    join(queue, "anna", fn_index=2)
    queue.pending_messages_per_session.clear()  # as gradio does where it has too many of them
    newer = join(queue, "anna", fn_index=3)
    assert [event._id for event in queue.event_queue_per_concurrency_id["plan"].queue] == [newer]


# -- leaving ----------------------------------------------------------------------------------------------------------


def test_a_page_whose_stream_is_closed_is_told_of_and_its_waiting_events_go(queue):
    join(queue, "anna", session="page 1"), join(queue, "anna", session="page 2")
    running = run_next(queue)
    run(queue.clean_events(session_hash="page 1"))
    run(queue.clean_events(event_id=running._id))
    assert queue.left == ["page 1"]
    assert not running.alive
    assert [e.session_hash for e in queue.event_queue_per_concurrency_id["engine"].queue] == ["page 2"]


def test_only_what_nobody_reads_for_long_counts_as_unheard(queue):
    join(queue, "anna", session="read"), join(queue, "ben", session="unread"), join(queue, "ben", session="slow")
    assert queue._unread(0.0) == []
    queue.pending_messages_per_session["read"].get_nowait()
    queue.pending_messages_per_session["slow"].get_nowait()
    queue.pending_messages_per_session["slow"].put_nowait("the next one")
    assert queue._unread(UNHEARD - 1) == []
    assert queue._unread(UNHEARD) == ["unread"]  # the other's first message is a newer one
    assert sorted(queue._unread(2 * UNHEARD)) == ["slow", "unread"]


def test_messages_that_nobody_reads_are_not_kept_also_when_their_event_is_over(queue):
    event = join(queue, "anna", session="gone")
    queue.event_ids_to_events.pop(event)  # over, before anybody has looked
    assert queue._unread(0.0) == []
    assert queue._unread(UNHEARD) == ["gone"]
    run(queue._forget("gone"))
    assert "gone" not in queue.pending_messages_per_session
    assert queue._unread(3 * UNHEARD) == []


# -- who asks ---------------------------------------------------------------------------------------------------------


def test_addresses_are_told_apart_on_public_sites_only():
    request = SimpleNamespace(cookies={}, headers={}, client=SimpleNamespace(host="203.0.113.7"))
    private, public = Owners(b"secret"), Owners(b"secret", proxied=True)
    assert private.name(request) == RequestOwner(private.address_of(request), None)
    assert public.name(request) == RequestOwner(public.key_of(request), public.address_of(request))


def test_events_of_one_group_name_one_limit(mini):
    """Gradio takes the lowest, and none means one at a time."""
    space = Workspace(loader=lambda spec: mini)
    space.model("mini")
    page = build_app(space, Settings())
    limits: dict[str, set[object]] = {}
    for event in page.fns.values():
        limits.setdefault(event.concurrency_id, set()).add(event.concurrency_limit)
    assert {name: found for name, found in limits.items() if len(found) > 1} == {}
    assert limits["engine"] == {24}
    assert limits["measured"] == {16}


# -- the running app --------------------------------------------------------------------------------------------------

SLOW = {"model": "x/slow", "max-new": 600}  # some twelve seconds of the model


@pytest.fixture(scope="module")
def space():
    """As a public site has it: mini, and a model whose tokens take their time."""
    made = mini_and_slow()
    public = SiteRules(public=True, models=("mini", "x/slow"))
    space = Workspace("cpu", loader=made.model, policy=public, max_waiting=48, per_visitor=3, per_address=12)
    space.adapter(space.model("mini"), "rl")
    space.model("x/slow")
    return space


@pytest.fixture
def impatient(monkeypatch):
    """What nobody listens to is ended soon, from the moment on at which this is called."""
    monkeypatch.setattr("rmx.ui.server.queue_shares.LOOK", 0.2)
    return lambda: monkeypatch.setattr("rmx.ui.server.queue_shares.UNHEARD", 1.0)


@pytest.fixture
def url(space, impatient):
    with running(space, public=True) as url:
        yield url
        impatient()
        until(lambda: not space.waiting())


async def config_of(url):
    async with httpx.AsyncClient(timeout=60) as client:
        return (await client.get(f"{url}/config")).json()


def test_a_greedy_cookie_and_a_greedy_address_neither_refuse_nor_delay_somebody_elses_solve(url, space):
    async def visit():
        config = await config_of(url)
        greedy = await stranger(url, config, "203.0.113.1")
        tabs = [greedy.another() for _ in range(10)]
        replies = await asyncio.gather(*[tab.post(tab.form.call("solve", "click", **SLOW)) for tab in tabs])
        cookies = [await stranger(url, config, "203.0.113.2") for _ in range(8)]
        for i in range(24):
            tab = cookies[i % 8].another()
            await tab.post(tab.form.call("claims-measure", "click"))
        seen, polite = Seen(), Tab(url, config, "198.51.100.1")
        await polite.open()
        for model in ("x/slow", "mini"):
            call = polite.form.call("solve", "click", **{"model": model, "max-new": 20})
            await follow(polite, call, seen, seen.first)
        still = space.model("x/slow").engine.queue.waiting()
        await polite.close()
        return replies, seen, still

    replies, seen, still = run(visit())
    refused = [reply for reply in replies if reply.status_code != 200]
    assert {reply.status_code for reply in refused} == {429}
    assert len(refused) == 4
    assert "requests of yours are under way" in refused[0].json()["detail"]  # what the page shows
    assert (seen.refused, seen.errors) == ([], [])
    assert len(seen.first) == 2
    assert still > 0  # the greedy one's solutions are still under way
    assert max(seen.whole) < 10  # one of them alone takes longer


@pytest.mark.parametrize(
    ("button", "values"),
    [
        ("solve", SLOW),
        ("pair-compare", {"pair-max-new": 1000}),
        pytest.param("pair-shifts", {"pair-limit": 100}, marks=pytest.mark.long),
        pytest.param("pair-intervene", {"pair-limit": 100}, marks=pytest.mark.long),
        ("claims-measure", {"claims-limit": 100}),
    ],
)
def test_what_nobody_listens_to_ends_by_itself_also_while_it_waits(button, values, url, space, impatient):
    """Nobody opens a stream or a heartbeat, as a script that only posts."""
    turns = [space.model(spec).engine.queue for spec in ("mini", "x/slow")]
    held = [(line, line.enter()) for line in turns]  # whatever is asked waits

    async def visit():
        tab = await stranger(url, await config_of(url), "203.0.113.1")
        assert (await tab.post(tab.form.call(button, "click", **values))).status_code == 200

    impatient()
    try:
        run(visit())
        until(lambda: sum(line.waiting() for line in turns) == 3)
        until(lambda: sum(line.waiting() for line in turns) == 2)
    finally:
        for line, ticket in held:
            line.leave(ticket)


def test_the_first_solution_is_counted_for_who_reads_it(url, space):
    async def visit():
        config = await config_of(url)
        tab, other = [await stranger(url, config, f"203.0.113.{last}") for last in (1, 2)]
        solve = tab.form.call("solve", "click", **SLOW)
        while (await tab.post(solve)).status_code != 429:
            pass
        refused = await tab.client.get("/opening")
        assert refused.status_code == 429
        assert "requests of yours" in refused.json()["detail"]
        assert (await other.client.get("/opening")).status_code == 200
        await tab.client.aclose()

    run(visit())


def test_a_stream_that_is_closed_ends_what_is_done_for_it(url, space):
    turns = space.model("x/slow").engine.queue

    async def visit():
        tab = await stranger(url, await config_of(url), "203.0.113.1")
        event = (await tab.post(tab.form.call("solve", "click", **SLOW))).json()["event_id"]
        async with tab.listening(event) as messages:
            async for message in messages:
                if message["msg"] == "process_generating":
                    break
        await asyncio.to_thread(until, lambda: not turns.waiting())

    run(visit())


def test_a_measurement_whose_page_closes_its_stream_ends_also_while_it_waits(url, space):
    turns = space.model("mini").engine.queue

    async def visit():
        tab = await stranger(url, await config_of(url), "203.0.113.1")
        event, run = (await tab.post(tab.form.call("solve", "click"))).json()["event_id"], None
        async with tab.listening(event) as messages:
            async for message in messages:
                data = (message.get("output") or {}).get("data") or [None]
                run = data[0]["run"] if isinstance(data[0], dict) else run
                if message["msg"] == "process_completed":
                    break
        held = turns.enter()
        try:
            event = await tab.trigger("callback", [], {"run": run, "pos": 3})  # the outcomes of a place
            async with tab.listening(event):
                await asyncio.to_thread(until, lambda: turns.waiting() == 2)
            await asyncio.to_thread(until, lambda: turns.waiting() == 1)
        finally:
            turns.leave(held)

    run(visit())


def test_a_call_by_name_that_nobody_reads_is_ended_too(url, space, impatient):
    turns = space.model("x/slow").engine.queue
    impatient()
    asked = {"prompt": "How many?", "model": "x/slow", "max_new_tokens": 900}
    begun = httpx.post(f"{url}/gradio_api/call/v2/trace", json=asked, timeout=30)
    assert begun.status_code == 200
    until(lambda: turns.waiting() == 1)
    until(lambda: not turns.waiting(), patience=10)  # it would take eighteen seconds
