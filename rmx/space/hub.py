"""A plan for a Space, carried out with the Hub's client; what the Hub says against it becomes a sentence."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, Volume
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from rmx.errors import RmxError, first_line
from rmx.space.plan import SpacePlan, stage

# The client's own errors: HTTP answers and, below them, whichever library carries them; values that it refuses.
_FAILURES: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)
_BUILD_VARIABLE = "TORCH_INDEX"


def carry_out(plan: SpacePlan, api: HfApi | None = None) -> Iterator[str]:
    """Bring the plan to the Hub; yields a line for each thing done. Done again, it changes nothing that is so already.

    Settings come before the files: the upload starts the build, which reads them.

    Raises:
        RmxError: what stood against it, in a sentence without tokens and secrets.
    """
    api = api or HfApi()
    try:
        yield from _carried_out(plan, api)
        return
    except _FAILURES as error:
        said = _why(error, plan)
    # Raised out here, so that nothing refers to the request that failed: its headers hold the token.
    for value in sorted(plan.secrets.values(), key=len, reverse=True):
        said = said.replace(value, "(secret)")
    raise RmxError(said)


def _carried_out(plan: SpacePlan, api: HfApi) -> Iterator[str]:
    who = api.whoami()["name"]
    known = api.repo_exists(plan.space, repo_type="space")
    if known:
        yield f"{plan.space} is there; {who} updates it"
        if plan.private:
            api.update_repo_settings(plan.space, private=True, repo_type="space")
            yield "made it private"
    else:
        api.create_repo(
            plan.space,
            repo_type="space",
            space_sdk=plan.sdk,
            private=plan.private or None,
            space_hardware=plan.hardware,  # type: ignore[arg-type]  # a str enum
            exist_ok=True,
        )
        yield f"created the {plan.sdk} Space {plan.space} for {who}"
    stale = known and _builds_otherwise(plan, api)
    for name, value in plan.variables.items():
        api.add_space_variable(plan.space, name, value)
        yield f"set the variable {name}"
    for name, value in plan.secrets.items():
        api.add_space_secret(plan.space, name, value)
        yield f"set the secret {name}"
    if plan.bucket:
        _mount(plan.space, plan.bucket, api)
        yield f"mounted {plan.bucket} on /data"
    if known and plan.hardware:
        api.request_space_hardware(plan.space, plan.hardware)  # type: ignore[arg-type]
        yield f"asked for {plan.hardware}"
    yield f"uploaded {len(plan.files)} files: {_upload(plan, api)}"
    if stale:
        # A commit without a change starts no build, and the image's torch has to be another one.
        api.restart_space(plan.space, factory_reboot=True)
        yield "asked for a new build"


def _builds_otherwise(plan: SpacePlan, api: HfApi) -> bool:
    """Whether a Space that is there was built with another torch than the plan asks for."""
    wanted = plan.variables.get(_BUILD_VARIABLE)
    have = api.get_space_variables(plan.space).get(_BUILD_VARIABLE)
    return wanted is not None and (have is None or have.value != wanted)


def _mount(space: str, bucket: str, api: HfApi) -> None:
    """The bucket on /data, beside what else the Space has mounted."""
    api.create_bucket(bucket, private=True, exist_ok=True)
    others = [v for v in api.get_space_runtime(space).volumes or [] if v.mount_path != "/data"]
    api.set_space_volumes(space, [*others, Volume(type="bucket", source=bucket, mount_path="/data")])


def _upload(plan: SpacePlan, api: HfApi) -> str:
    with tempfile.TemporaryDirectory(prefix="rmx-space-") as folder:
        stage(plan, Path(folder), api.endpoint)
        api.upload_folder(
            repo_id=plan.space,
            repo_type="space",
            folder_path=folder,
            allow_patterns=[file.path for file in plan.files],
            # What an earlier version had and this one has not would be imported all the same.
            delete_patterns=["rmx/*", "assets/*"],
            commit_message="rmx",
        )
    return f"{api.endpoint}/spaces/{plan.space}"


def _why(error: Exception, plan: SpacePlan) -> str:
    """What stood against it, and what to do."""
    owner = plan.space.partition("/")[0]
    if isinstance(error, LocalTokenNotFoundError):
        return f"The Hub needs to know you. Log in (hf auth login), or set HF_TOKEN to one that may write to {owner}."
    if isinstance(error, HfHubHTTPError):
        return _why_refused(error, plan, owner)
    if isinstance(error, ValueError):
        return f"The Hub's client refused it: {first_line(error)}"
    if isinstance(error, RuntimeError):
        return f"The upload broke off: {first_line(error)} Run this again."
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        return f"A file cannot be read or written ({error.strerror}: {error.filename}). Nothing was uploaded."
    return (
        f"The Hub cannot be reached ({first_line(error) or type(error).__name__}). Check the network, HF_ENDPOINT and "
        "HF_HUB_OFFLINE, and run this again: what is done already stays done."
    )


def _why_refused(error: HfHubHTTPError, plan: SpacePlan, owner: str) -> str:
    status: Any = getattr(error.response, "status_code", None)
    said = first_line(error.server_message or "")
    more = f" ({said})" if said else ""
    if status == 401:
        return "The Hub does not know this token. Log in again (hf auth login), or set HF_TOKEN to a valid one."
    if status == 402:
        return (
            f"The Hub wants payment for {plan.hardware or 'this Space'}{more}. A {plan.sdk} Space needs a PRO or Team "
            "plan on the free CPU, and billing on other hardware."
        )
    if status == 403:
        return f"This token may not do that for {plan.space}{more}. Make one with the right to write to {owner}."
    if status == 404:
        return f"The Hub has no {plan.space}, or this token may not see it. Check the owner's name."
    if status == 409:
        return f"{plan.space} cannot be made as asked: something of that name stands against it{more}."
    if status == 429:
        return "The Hub takes no more requests from here for now. Run this again in a few minutes."
    if status is not None and status >= 500:
        return f"The Hub has a fault of its own right now ({status}). Run this again later: what is done stays done."
    return f"The Hub refused it ({status}){more}."
