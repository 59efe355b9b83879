"""The app's settings from the environment; a wrong value is one clear sentence at start."""

import os
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rmx.errors import RmxError


class Settings(BaseSettings):
    """Every field is RMX_<NAME> in the environment; command line options win over it."""

    model_config = SettingsConfigDict(env_prefix="RMX_", extra="ignore")

    model: str | None = None  # offered beside mini and loaded at start
    adapter: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=7860, ge=0, le=65535)
    max_new_tokens: int = Field(default=4096, ge=1, le=65536)

    @classmethod
    def from_environment(cls, **given: Any) -> "Settings":
        """Settings from the environment, with those of `given` that are not None on top.

        Raises:
            RmxError: a value that cannot be used, named with its variable.
        """
        known = {k: v for k, v in given.items() if v is not None}
        if "port" not in known and "RMX_PORT" not in os.environ and os.environ.get("PORT"):
            known["port"] = os.environ["PORT"]
        try:
            return cls(**known)
        except ValidationError as error:
            first = error.errors()[0]
            name = "RMX_" + "_".join(str(p) for p in first["loc"]).upper()
            raise RmxError(f"{name} cannot be '{first.get('input')}': {first['msg']}.") from error
