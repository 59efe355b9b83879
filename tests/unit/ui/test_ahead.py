"""Steps that do not wait for their reader, and sessions that do not weigh."""

import importlib.util
import sys
import threading
import time

import gradio as gr
import pytest
from gradio.state_holder import StateHolder

from rmx.engine.fair_queue import as_owner, current_owner
from rmx.ui.jobs.page_jobs import prefetch
from rmx.ui.server.queue_shares import LightSessions, lighten, without_matplotlib
from rmx.ui.server.serve import listen


def until(condition):
    for _ in range(400):
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_steps_go_on_while_nobody_takes_them():
    made = []

    def steps():
        for i in range(5):
            made.append(i)
            yield i

    reading = prefetch(steps(), lambda: None)
    assert next(reading) == 0
    assert until(lambda: made == [0, 1, 2, 3, 4])
    assert list(reading) == [1, 2, 3, 4]


def test_errors_arrive_where_somebody_listens():
    def steps():
        yield 1
        raise KeyError("x")

    reading = prefetch(steps(), lambda: None)
    assert next(reading) == 1
    with pytest.raises(KeyError):
        next(reading)


def test_who_leaves_halts_the_work_and_who_stays_to_the_end_does_not():
    halted, closed = threading.Event(), threading.Event()

    def steps():
        try:
            while not halted.is_set():
                yield 1
                time.sleep(0.005)
        finally:
            closed.set()

    reading = prefetch(steps(), halted.set)
    next(reading)
    reading.close()
    assert halted.is_set()
    assert closed.wait(5)
    again = threading.Event()
    assert list(prefetch(iter("ab"), again.set)) == ["a", "b"]
    assert not again.is_set()


def test_who_asks_is_known_in_the_thread_too():
    def steps():
        yield current_owner.get().owner

    with as_owner("anna"):
        assert list(prefetch(steps(), lambda: None)) == ["anna"]


# -- sessions ---------------------------------------------------------------------------------------------------------


def page():
    with gr.Blocks(analytics_enabled=False) as demo:
        box, state = gr.Textbox("text"), gr.State(7)
        box.change(lambda x, y: (x, y), [box, state], [box, state])
    holder = StateHolder()
    holder.set_blocks(demo)
    return demo, box, state


def test_a_session_has_its_own_states_without_a_description_of_the_page():
    demo, box, state = page()
    heavy = demo.state_holder["before"]
    assert len(heavy.config_values) >= 2
    lighten(demo)
    light = demo.state_holder["after"]
    assert light.config_values == {}
    assert light[state._id] == 7
    light[state._id] = 8
    assert (light[state._id], demo.state_holder["another"][state._id]) == (8, 7)
    light[box._id] = gr.Textbox("changed", render=False)
    assert light[box._id].value == "changed"  # an update of a component is kept
    assert demo.state_holder["another"][box._id].value == "text"
    assert light.config_values == {}


def test_sessions_share_the_tables_of_the_page():
    demo, box, _ = page()
    lighten(demo)
    first, second = (demo.state_holder[name].blocks_config for name in ("first", "second"))
    assert first.fns is second.fns is demo.default_config.fns
    assert not first.blocks.maps[0]
    assert first.blocks[box._id] is second.blocks[box._id] is box


def test_what_a_page_shows_is_not_kept_for_it():
    """By a real event: gradio hands every output to the session."""
    import httpx
    import uvicorn
    from fastapi import FastAPI

    said = "a whole solution" * 100
    with gr.Blocks(analytics_enabled=False) as demo:
        box, out = gr.Textbox(), gr.Textbox()
        box.submit(lambda text: said, box, out, api_name="solve")
    app = gr.mount_gradio_app(FastAPI(), demo, path="/")
    lighten(demo)
    with listen("127.0.0.1", 0) as door:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([door],), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{door.getsockname()[1]}/gradio_api/call/solve"
        assert until(lambda: server.started)
        event = httpx.post(url, json={"data": ["x"]}).json()["event_id"]
        assert said in httpx.get(f"{url}/{event}", timeout=20).text
        server.should_exit = True
        thread.join(20)
    (state,) = demo.state_holder.session_data.values()
    assert said not in repr(state.config_values)


def test_sessions_are_bounded(monkeypatch):
    monkeypatch.setattr("rmx.ui.server.queue_shares.MOST", 3)
    demo, _, _ = page()
    lighten(demo)
    for i in range(9):
        _ = demo.state_holder[str(i)]
    assert isinstance(demo.state_holder, LightSessions)
    assert list(demo.state_holder.session_data) == ["6", "7", "8"]


def test_a_package_that_is_not_there_is_not_searched_for_again_and_again(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    without_matplotlib()
    with pytest.raises(ImportError):
        import matplotlib  # noqa: F401
