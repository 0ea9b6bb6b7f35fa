"""Arguments of the SDK's client, as sagaz's storage hands them on, as options of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sagaz_tiering.errors import ConfigError

_NAMES: Final = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "config": "sdk_config",
    "verify": "trusts",
}
_NEEDLESS: Final = ("api_version",)
_KNOWN: Final = ("endpoint_url", *_NAMES, "use_ssl", *_NEEDLESS)


def sdk_options(given: Mapping[str, Any], endpoint_url: str | None) -> dict[str, Any]:
    """Fields of `S3Options`. Raises ConfigError for what the storage does not know or cannot work with."""
    options = {name: value for name, value in given.items() if value is not None and name not in _NEEDLESS}
    if options.pop("use_ssl", True) is False and not (endpoint_url or "").startswith("http://"):
        raise ConfigError(
            "use_ssl=False would send credentials and data in the clear", hint="name an http:// endpoint_url"
        )
    if options.get("verify") is True:
        del options["verify"]
    if options.get("verify") is False:
        raise ConfigError(
            "verify=False cannot be used: anybody could answer in place of the bucket",
            hint="give the file of your certificate authority, as verify or in AWS_CA_BUNDLE",
        )
    for name in options:
        if name not in _NAMES:
            raise ConfigError(
                f"S3SnapshotStorage does not know the option {name!r:.80}",
                hint=f"beside its own it takes these of the SDK's client: {', '.join(_KNOWN)}",
            )
    return {_NAMES[name]: value for name, value in options.items()}
