"""The key that signs what travels through a client between the legs of a call."""

import multiprocessing
import os
from pathlib import Path

import pytest

from perdure.errors import SettingsError
from perdure.middleware.persistence.signing_key import key_in
from perdure.middleware.persistence.wiring import build
from perdure.settings_loader import load_settings


def test_a_key_is_made_once_and_is_its_users_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    key = key_in(folder)
    assert len(key) == 32
    assert key_in(folder) == key
    [file] = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_processes_that_start_together_have_one_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        assert len(set(pool.map(key_in, [tmp_path / "data"] * 64, chunksize=1))) == 1
    assert len(os.listdir(tmp_path / "data")) == 1


def test_a_key_that_is_none_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "request-state.key").write_bytes(b"short")
    with pytest.raises(OSError, match="remove it"):
        key_in(tmp_path)


def test_the_operators_key_stands_above_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_REQUEST_STATE_KEY", "a key for all replicas, of 32 bytes")
    runtime = build(load_settings())
    assert runtime.signing_key == b"a key for all replicas, of 32 bytes"
    assert not list(runtime.own_folder.glob("*.key"))


def test_a_short_key_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_REQUEST_STATE_KEY", "hunter2")
    with pytest.raises(SettingsError, match="request_state_key") as refused:
        load_settings()
    assert "32" in str(refused.value)
    assert "hunter2" not in str(refused.value)
