"""The settings as file and environment give them. Apart, since pydantic-settings takes a while to import, and a server
needs it with its first call and not before."""

from typing import ClassVar

from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SettingsSourceError

from perdure.settings import Settings, ToolSettings

__all__ = ["GivenSettings", "MadeSettings", "SettingsSourceError", "given_by_environment"]


ToolSettings.model_rebuild()  # once, and not in each class that has some


class GivenSettings(Settings, BaseSettings):
    """The file's content is given as arguments; here the environment stands above those."""

    _environment_first: ClassVar[bool] = True

    model_config = SettingsConfigDict(
        env_prefix="PERDURE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=False,
        defer_build=False,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings) if cls._environment_first else (init_settings, env_settings)


class MadeSettings(GivenSettings):
    """Made in code: what is given stands above the environment, as arguments do everywhere."""

    _environment_first: ClassVar[bool] = False

    model_config = SettingsConfigDict(defer_build=True)  # a server has none


def given_by_environment() -> dict[str, object]:
    return EnvSettingsSource(GivenSettings)()
