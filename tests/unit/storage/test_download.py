"""A model's files on their way from a Hub on this machine: how far they are, stopped, refused."""

import time

import pytest

from rmx.errors import ModelError
from rmx.storage.hub import Download, DownloadStopped
from tests.helpers.fake_hub import FILES, fake_hub

pytestmark = pytest.mark.slow


@pytest.fixture
def at_hub(monkeypatch, tmp_path):
    """Go to this address, with an empty cache."""

    def go(address):
        for name, value in {"ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": False}.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        for name, value in {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "0"}.items():
            monkeypatch.setenv(name, value)

    return go


def test_it_says_how_far_it_is_and_then_all_is_here(at_hub):
    with fake_hub(0.1) as address:
        at_hub(address)
        download = Download("some/model")
        assert not download.is_cached()
        steps = list(download.steps())
    come = [come for come, *_ in steps]
    assert come == sorted(come)
    assert {missing for _, missing, _ in steps} <= {0, sum(map(len, FILES.values()))}
    assert any(1_000_000 < one < len(FILES["model.safetensors"]) for one in come)
    assert download.is_cached()


def test_it_can_be_stopped_and_leaves_no_half_file(at_hub, tmp_path):
    with fake_hub(0.5) as address:
        at_hub(address)
        download = Download("some/model")
        steps = download.steps()
        while next(steps)[0] < 5_000_000:
            pass
        download.stopped.set()
        with pytest.raises(DownloadStopped, match="stopped"):
            next(steps)
        assert not download.is_cached()
        assert not list(tmp_path.rglob("*.incomplete"))
        assert list(tmp_path.rglob("config.json"))  # what came whole is kept


def test_a_model_that_is_not_there_is_refused(at_hub):
    with fake_hub(0.0, {"config.json": b"{}"}) as address:
        at_hub(address)
        began = time.monotonic()
        list(Download("some/model").steps())  # whoever loads it finds that the weights are missing
        at_hub("http://127.0.0.1:9")
        with pytest.raises(ModelError, match="cannot be reached"):
            list(Download("some/other").steps())
        assert time.monotonic() - began < 60
