"""The folder where gradio may put files: one that only this process uses, gone when it ends."""

import atexit
import os
import shutil
import tempfile
from functools import cache

VARIABLE = "GRADIO_TEMP_DIR"


@cache
def use_own_folder() -> str:
    """Have gradio keep its files in a new folder that only this user may open; to be called before a page is built.

    By itself it takes a folder in the system's temporary one, which all apps of the machine share.
    """
    folder = tempfile.mkdtemp(prefix="rmx-gradio-")
    os.environ[VARIABLE] = folder
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a forked copy
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
