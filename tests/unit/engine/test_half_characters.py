"""Half a character (a lone surrogate) is no text that can be sent: wherever it comes in, no stream and no page dies of
it."""

import io
import json

import pytest

from rmx.cli.main import main
from rmx.data.problem_files import read_text
from rmx.errors import RmxError
from rmx.models.site_rules import SiteRules
from rmx.models.workspace import Workspace
from rmx.storage.safe_files import parse, sendable, without_half_characters
from tests.helpers.fuzzing import Request, exchange
from tests.helpers.live import running
from tests.unit.ui.test_fuzz_api import what_it_offers

HALF = "a \ud83d b"
WHOLE = "a ? b"


@pytest.fixture(scope="module")
def space(mini):
    space = Workspace("cpu", loader=lambda spec: mini, policy=SiteRules(public=True, training="off"))
    space.model("mini")
    return space


@pytest.fixture(scope="module")
def target(space, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMX_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setattr("rmx.ui.server.rate_limit.AccessGate._too_often", lambda *_: 0.0)
        with running(space, public=True, training="off", max_new_tokens=12) as url:
            yield what_it_offers(url, [])


@pytest.mark.parametrize(
    ("given", "mended"),
    [
        (r'{"a": "\ud83d"}', r'{"a": "?"}'),
        (r'["\ud83d\ude00", "\uDE00\ud83d", "\ud83d\uD83D\uDE00"]', r'["\ud83d\ude00", "??", "?\uD83D\uDE00"]'),
        (r'["\\ud83d", "\\\ud83d", "\n\ud83d\"\\"]', r'["\\ud83d", "\\?", "\n?\"\\"]'),
        (r'["\\\\ud83d\ude00", "\\ud83d\ude00"]', r'["\\\\ud83d?", "\\ud83d?"]'),
        (r'"\ud83d \ude00"', r'"? ?"'),
        (f'"{HALF}"', f'"{WHOLE}"'),
        (r'{"\udfff": 1}', r'{"?": 1}'),
        ('"é 😀 \\u00e9"', '"é 😀 \\u00e9"'),
    ],
)
def test_half_characters_of_a_json_text_are_replaced_and_nothing_else(given, mended):
    assert without_half_characters(given) == mended
    assert json.dumps(json.loads(mended), ensure_ascii=False).encode()


def test_a_document_holds_none():
    assert parse('{"a": ["\\ud83d", "\\ud83d\\ude00"]}') == {"a": ["?", "😀"]}


def test_a_file_of_problems_holds_none():
    [problem] = read_text("x.jsonl", '{"problem": "1 + 1 \\ud83d?", "id": "\\udc00"}', "own")
    assert (problem.problem, problem.id) == ("1 + 1 ??", "?")


def test_what_cannot_be_sent_is_replaced_by_what_can():
    given = {HALF: [HALF, 2**70, -1, float("nan"), 1.5, None, True]}
    assert sendable(given) == {WHOLE: [WHOLE, None, -1, None, 1.5, None, True]}


def halved(value):
    """The same value with half a character in every text, `""` for what was none."""
    if isinstance(value, str):
        return value + HALF
    if isinstance(value, list):
        return [halved(one) for one in value]
    return {key: halved(one) for key, one in value.items()} if isinstance(value, dict) else value


KEYS = "run id ids where job text q name set repo note problem token link value html kind pins usd file"
EXTRA = {"pos": 0, HALF: HALF} | dict.fromkeys(KEYS.split(), HALF)


@pytest.mark.slow
def test_every_event_of_the_page_answers_and_its_stream_lives_on(target):
    for event in target.events:
        body = {
            "data": halved(event["usual"]),
            "fn_index": event["id"],
            "session_hash": "half",
            "event_data": EXTRA,
        }
        path = "/gradio_api/queue/join" if event["queue"] else "/gradio_api/run/predict"
        request = Request("POST", path, json.dumps(body).encode(), session="half")
        for reply in exchange(target.port, request):
            assert reply.status < 500, (event, reply)
            assert "surrogates" not in reply.text, (event, reply.text[-500:])
            assert "unexpected_error" not in reply.text, (event, reply.text[-500:])


def test_every_question_of_the_page_is_answered(target):
    for component, name in target.functions:
        for data in (HALF, EXTRA, [HALF]):
            body = {"component_id": component, "fn_name": name, "session_hash": "half", "data": data}
            [reply] = exchange(target.port, Request("POST", "/gradio_api/component_server", json.dumps(body).encode()))
            assert reply.status == 200, (name, data, reply)
            assert "a fault of rmx" not in reply.text, (name, data, reply)


@pytest.mark.parametrize("text", [r'"2 + 3 \ud83d?"', '"2 + 3 \ud83d?"'])
def test_a_prompt_is_solved(target, text):
    body = f'{{"prompt": {text}, "max_new_tokens": 3, "brief": true}}'.encode("utf-8", "surrogatepass")
    request = Request("POST", "/gradio_api/call/v2/trace", body, follow="/gradio_api/call/trace")
    replies = exchange(target.port, request)
    if replies[0].status == 400:
        assert "The body is not JSON." in replies[0].text
        return
    assert "event: complete" in replies[1].text
    assert "2 + 3 ??" in replies[1].text


def test_whatever_reaches_a_stream_can_be_sent(target, monkeypatch):
    """The last line of defence: a text that came in where nothing is guarded."""

    def say_half(*_, **__):
        raise RmxError(HALF)

    monkeypatch.setattr("rmx.ui.jobs.explorer.Explorer.pick", say_half)
    pick = next(e for e in target.events if e["queue"] and e["inputs"] == 0)
    body = {"data": [], "fn_index": pick["id"], "session_hash": "last"}
    request = Request("POST", "/gradio_api/queue/join", json.dumps(body).encode(), session="last")
    _, stream = exchange(target.port, request)
    assert "process_completed" in stream.text
    assert f'"error":"{WHOLE}"' in stream.text


@pytest.mark.parametrize("given", [["trace", "2 + 3 \udcff?"], ["trace", "--set", "\udcff.jsonl", "--problem", "0"]])
def test_the_command_line_takes_no_words_that_are_not_text(given, capsys):
    assert main(given) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "is not text in UTF-8" in captured.err


def test_nor_a_prompt_from_standard_input(monkeypatch, capsys):
    """Under a C locale Python reads bytes that are none as half characters."""
    monkeypatch.setattr("sys.stdin", io.StringIO("a \udcff b"))
    assert main(["trace", "1 + 1?", "--read", "-", "--json"]) == 0
    assert '"text": "?"' in capsys.readouterr().out
