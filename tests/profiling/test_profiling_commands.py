"""The commands of `python -m profiling`: every one is there, and says which package it lacks."""

from __future__ import annotations

import sys

import pytest

from profiling.__main__ import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_module(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["profiling", command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert f"python -m profiling {command}" in capsys.readouterr().out


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "profiling.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr(sys, "argv", ["profiling", "report", "run"])
    assert main() == 7
    assert "`report` takes the package jinja2" in capsys.readouterr().err
