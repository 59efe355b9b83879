"""Save a tree to a dataset on the Hub with a visitor's own token: used once, kept nowhere, in no log."""

import re
from typing import Any

from huggingface_hub import HfApi

from rmx.errors import RmxError
from rmx.storage.hub_errors import Upload, upload_sentence

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,200}")
FOLDER = "trees"


def save_tree(text: str, name: str, repo: str, token: str, api: Any = None) -> str:
    """Upload a tree document as trees/NAME of a dataset, which is made, private, where it is not there yet.

    Args:
        api: stands in for huggingface_hub's HfApi in tests.

    Returns:
        The address of the file.

    Raises:
        RmxError: the name, the token or the Hub does not allow it. The token is in no message.
    """
    if not _REPO.fullmatch(repo):
        raise RmxError("Name the dataset as OWNER/NAME, for example ann/forks.")
    if not _TOKEN.fullmatch(token):
        raise RmxError("That is no access token of the Hub: they begin with hf_. Make one with the right to write.")
    place = f"{FOLDER}/{name}"
    try:
        if api is None:
            api = HfApi(token=token)
        api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        api.upload_file(
            path_or_fileobj=text.encode(),
            path_in_repo=place,
            repo_id=repo,
            repo_type="dataset",
            commit_message=f"Add {name} from rmx",
        )
    except Exception as error:  # noqa: BLE001 - whatever it is may quote the request, and with it the token
        said = upload_sentence(error, Upload("the tree", repo, offline="Download the JSON instead."))
        raise RmxError(said.replace(token, "(token)")) from None
    return f"https://huggingface.co/datasets/{repo}/blob/main/{place}"
