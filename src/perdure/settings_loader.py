"""Finds the settings and words what is wrong with them: the file, the key, what is allowed there."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from perdure.errors import SettingsError
from perdure.policy_sources import Place
from perdure.settings import Settings, ToolSettings

__all__ = [
    "data_directory",
    "is_switched_on",
    "load_settings",
    "settings_file",
    "tool_settings",
    "usual_settings_file",
    "variables_set",
]


def load_settings(path: Path | None = None) -> Settings:
    """Environment above file above defaults. `path` is what `--config` names.

    Raises:
        SettingsError: With the file or variable, the key and what is allowed there.
    """
    from perdure.settings_sources import GivenSettings, SettingsSourceError  # noqa: PLC0415 - see there

    file = path or settings_file()
    content = _read(file) if file else {}
    _refuse_unknown_variables()
    use_supabase = _use_supabase()
    if use_supabase:
        content["backend"] = "supabase"
    try:
        settings = GivenSettings(**content)
        if settings.backend != "supabase":
            return settings
        if use_supabase is False:
            return settings.model_copy(update={"backend": Settings.model_fields["backend"].default})
        return GivenSettings(**content | _usual_variables())
    except ValidationError as error:
        faults = "; ".join(
            f"{_source(detail, file)}: {_fault(detail, Settings if len(detail['loc']) == 1 else ToolSettings)}"
            for detail in error.errors()
        )
        raise SettingsError(
            f"{faults}.", remedy="mend it; until then perdure is off, and tools answer without memory."
        ) from error
    except SettingsSourceError as error:
        raise SettingsError(f"An environment variable PERDURE_… cannot be read: {error}.", remedy="mend it.") from error


def _usual_variables() -> dict[str, str]:
    """Those that people who use Supabase have already; ours, `PERDURE_…`, stand above them.

    Read only where Supabase is the backend: they may be there for the application's own sake.
    """
    named = {
        "SUPABASE_URL": "supabase_url",
        "SUPABASE_KEY": "supabase_key",
        "SUPABASE_STORAGE_BUCKET": "bucket",
    }
    return {setting: os.environ[name] for name, setting in named.items() if os.environ.get(name)}


def _use_supabase() -> bool | None:
    """What `USE_SUPABASE` says: true moves to Supabase, false moves back to the embedded backend.

    Raises:
        SettingsError: It says neither.
    """
    said = os.environ.get("USE_SUPABASE", "").strip().lower()
    if said in ("1", "true", "yes", "on"):
        return True
    if said in ("0", "false", "no", "off"):
        return False
    if said:
        raise SettingsError(f"USE_SUPABASE is {said!r}.", remedy="set it to true or false.")
    return None


def is_switched_on() -> bool:
    """Whether `PERDURE_ENABLED` lets perdure be in this process at all."""
    return os.environ.get("PERDURE_ENABLED", "").strip().lower() not in ("false", "0", "no", "off", "f", "n")


def settings_file() -> Path | None:
    """`PERDURE_CONFIG`, else `perdure.toml` in the user's config directory if it is there.

    Never from the working directory: that may be a stranger's repository.
    """
    if named := os.environ.get("PERDURE_CONFIG"):
        return _expanded(Path(named), "PERDURE_CONFIG")
    usual = usual_settings_file()
    return usual if usual.is_file() else None


def usual_settings_file() -> Path:
    import platformdirs  # noqa: PLC0415 - not needed where PERDURE_CONFIG and data_dir say it

    return platformdirs.user_config_path("perdure") / "perdure.toml"


def variables_set() -> dict[Place, str]:
    """The settings that environment variables set, by their place in the file, and which variable does."""
    from perdure.settings_sources import given_by_environment  # noqa: PLC0415 - see there

    variables = {name.upper(): name for name in os.environ}
    found: dict[Place, str] = {}

    def look(value: Any, place: Place) -> None:
        if isinstance(value, Mapping):
            for key, below in value.items():
                look(below, (*place, str(key)))
            return
        # A variable may set one value, or a whole table as JSON.
        names = ("PERDURE_" + "__".join(place[:length]).upper() for length in range(len(place), 0, -1))
        found[place] = next(variables[name] for name in names if name in variables)

    look(given_by_environment(), ())
    return found


def data_directory(settings: Settings) -> Path:
    if settings.data_dir is not None:
        return _expanded(settings.data_dir, "data_dir")
    import platformdirs  # noqa: PLC0415 - as above

    return platformdirs.user_data_path("perdure")


def _expanded(path: Path, setting: str) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise SettingsError(
            f"{setting} is {path}, and there is no such home directory.", remedy="write the path in full."
        ) from error


def tool_settings(options: Mapping[str, Any]) -> ToolSettings:
    """What a tool's author wrote as options of the decorator.

    Raises:
        SettingsError: With the option and what is allowed there.
    """
    try:
        return ToolSettings(**options) if options else ToolSettings.model_construct()  # which checks nothing
    except ValidationError as error:
        faults = "; ".join(f"{_key(detail)}: {_fault(detail, ToolSettings)}" for detail in error.errors())
        raise SettingsError(f"@persisted: {faults}.", remedy="mend the option where the decorator stands.") from error


def _read(file: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - most processes have no file

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"The settings file {file} cannot be read: {error.strerror}.",
            remedy="mend the path in PERDURE_CONFIG, or the file's permissions.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"The settings file {file} is not TOML: {error}.", remedy="mend that line.") from error


def _refuse_unknown_variables() -> None:
    known = {f"PERDURE_{name.upper()}" for name in Settings.model_fields} | {"PERDURE_CONFIG"}
    for name in os.environ:
        if name.startswith("PERDURE_") and name.split("__")[0] not in known:
            close = _closest(name, known)
            meant = f" Did you mean {close}?" if close else ""
            raise SettingsError(
                f"The environment variable {name} is not one of perdure's.{meant}",
                remedy=f"use one of {', '.join(sorted(known))}.",
            )


def _source(detail: ErrorDetails, file: Path | None) -> str:
    variable = "PERDURE_" + "__".join(str(part) for part in detail["loc"]).upper()
    where = variable if variable in os.environ else str(file or "settings")
    return f"{where}: {_key(detail)}"


def _key(detail: ErrorDetails) -> str:
    return ".".join(str(part) for part in detail["loc"])


def _fault(detail: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong, in words: `must be …`, or that there is no such setting and what there is."""
    if detail["type"] == "extra_forbidden":
        fields = sorted(model.model_fields)
        close = _closest(str(detail["loc"][-1]), fields)
        meant = f'; did you mean "{close}"?' if close else "."
        return f"there is no such setting{meant} Here there are: {', '.join(fields)}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if detail["loc"][-1] in ("database_url", "supabase_key", "request_state_key"):
        return message  # and not what it is: that may be the secret
    return f"{message}, not {detail['input']!r}"


def _closest(name: str, among: Iterable[str]) -> str | None:
    import difflib  # noqa: PLC0415 - only where something is amiss

    return next(iter(difflib.get_close_matches(name, list(among), n=1)), None)
