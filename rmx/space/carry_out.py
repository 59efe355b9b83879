"""A plan for a Space, carried out with the Hub's client; what the Hub says against it becomes a sentence."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, Volume

from rmx.errors import RmxError
from rmx.space.plan import SpacePlan, stage
from rmx.storage.hub_errors import FAILURES, Upload, upload_sentence

_BUILD_VARIABLE = "TORCH_INDEX"


def carry_out(plan: SpacePlan, api: HfApi | None = None) -> Iterator[str]:
    """Bring the plan to the Hub; yields a line for each thing done. Done again, it changes nothing that is so already.

    Settings come before the files: the upload starts the build, which reads them. Raises RmxError without any secret.
    """
    api = api or HfApi()
    try:
        yield from _carried_out(plan, api)
        return
    except FAILURES as error:
        said = _sentence(error, plan)
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
        made: dict[str, Any] = {"space_sdk": plan.sdk, "space_hardware": plan.hardware}
        api.create_repo(plan.space, repo_type="space", private=plan.private or None, exist_ok=True, **made)
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


def _sentence(error: Exception, plan: SpacePlan) -> str:
    """What stood against it, and what to do."""
    owner, such_as = plan.space.partition("/")[0], f" such as {plan.hardware}" if plan.hardware else ""
    upload = Upload(
        what="the Space",
        place=plan.space,
        sign_in=f"Log in (hf auth login), or set HF_TOKEN to one that may write to {owner}.",
        again="Run this again",
        offline="Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, and run this again: what is done stays done.",
        price=f"A {plan.sdk} Space needs a PRO or Team plan on the free CPU, and billing on other hardware{such_as}.",
    )
    return upload_sentence(error, upload)
