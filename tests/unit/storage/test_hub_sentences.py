"""Why something cannot be had from the Hub: by the client's own errors, and by the words of libraries around it."""

import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    Response,
)

from rmx.storage.hub import download_sentence

UNREACHABLE = "the Hub cannot be reached and no copy is cached here"


def answered(kind: type[HfHubHTTPError], status: int) -> Exception:

    module = __import__(Response.__module__.partition(".")[0])  # whichever library carries the answers
    asked = module.Request("GET", "https://huggingface.co/api/models/org/x")
    return kind(f"{status} Client Error", response=Response(status, request=asked))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (answered(GatedRepoError, 403), "is gated or private. Accept its licence on the Hub and set HF_TOKEN, or take"),
        (answered(RepositoryNotFoundError, 401), "was found neither here nor on the Hub"),
        (EntryNotFoundError("404 Client Error"), "was found neither here nor on the Hub"),
        (answered(HfHubHTTPError, 429), "takes no more requests from here for now"),
        (answered(HfHubHTTPError, 503), "a fault of its own right now (503)"),
        (LocalEntryNotFoundError("not cached"), UNREACHABLE),
        (OfflineModeIsEnabled("HF_HUB_OFFLINE is set"), UNREACHABLE),
        (ConnectionError("no route"), UNREACHABLE),
        (OSError("We couldn't connect to 'https://huggingface.co' to load the files"), UNREACHABLE),
        (OSError("org/x is not a local folder and is not a valid model identifier"), "found neither here nor on"),
        (OSError("You are trying to access a gated repo."), "is gated or private"),
    ],
)
def test_every_refusal_of_the_hub_is_a_sentence(error: Exception, said: str) -> None:
    found = download_sentence(error, "org/x")
    assert found is not None
    assert found.startswith("org/x ")
    assert said in found


def test_what_caused_an_error_counts_where_it_says_nothing_itself() -> None:
    error = ValueError("it did not work")
    assert download_sentence(error, "org/x") is None
    error.__cause__ = LocalEntryNotFoundError("not cached")
    assert UNREACHABLE in (download_sentence(error, "org/x") or "")
