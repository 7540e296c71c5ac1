"""The files for systemd and Docker say what the program understands."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from samovar.cli.main import build_parser
from samovar.serving.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def unit():
    """The settings of the unit, a list of values for each name."""
    settings = {}
    for line in (DEPLOY / "samovar.service").read_text().splitlines():
        if line and line[0] not in "#[":
            name, equals, value = line.partition("=")
            assert equals, line
            settings.setdefault(name, []).append(value)
    return settings


def test_the_unit_starts_a_command_that_is_understood():
    (command,) = unit()["ExecStart"]
    program, *argv = shlex.split(command)
    assert program.endswith("/bin/samovar")
    args = build_parser("serve").parse_args([*argv[:-1], "model.gguf", "--host", "0.0.0.0"])
    assert args.log_format == "json"
    (stop_s,) = unit()["TimeoutStopSec"]
    assert float(stop_s) > args.drain_timeout + 10  # the last words included


def test_the_unit_gives_up_every_power_that_a_server_can_do_without():
    settings = unit()
    for name in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "DynamicUser", "RestrictSUIDSGID"):
        assert settings[name] == ["yes"], name
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["CapabilityBoundingSet"] == [""]
    assert settings["StateDirectoryMode"] == ["0700"]


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    if (verify := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed")
    text = re.sub(r"/opt/samovar/bin/samovar", "/bin/true", (DEPLOY / "samovar.service").read_text())
    (tmp_path / "samovar.service").write_text(text)
    done = subprocess.run(
        [verify, "verify", "--man=no", tmp_path / "samovar.service"], capture_output=True, text=True, timeout=30
    )
    said = [line for line in done.stderr.splitlines() if "samovar" in line]
    assert not said, done.stderr


def test_the_image_runs_a_command_that_is_understood_as_an_ordinary_user():
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    kinds = [kind for kind, _ in lines]
    assert set(kinds) <= {"FROM", "RUN", "COPY", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}
    last = kinds[len(kinds) - kinds[::-1].index("FROM") :]
    assert last.index("USER") < last.index("ENTRYPOINT")
    assert dict(lines)["USER"] != "0"
    program, *argv = json.loads(dict(lines)["ENTRYPOINT"])
    args = build_parser("serve").parse_args([*argv, "model.gguf"])
    assert (program, argv[0], args.host, str(args.port)) == ("samovar", "serve", "0.0.0.0", dict(lines)["EXPOSE"])
    for kind, rest in lines:
        if kind == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source


def test_the_page_on_operations_names_options_that_there_are():
    text = (ROOT / "docs/operations.md").read_text()
    known = (
        build_parser("serve").format_help()
        + (ROOT / "src/samovar/cli/serve.py").read_text()
        + (ROOT / "src/samovar/cli/keys.py").read_text()
    )
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert len(options) > 10
    assert not [option for option in options if f'"{option}"' not in known]


def test_the_page_on_operations_lists_every_metric():
    text = (ROOT / "docs/operations.md").read_text()
    named = set(re.findall(r"`(samovar_\w+?)(?:_total)?`", text))
    made = {family.name for family in Metrics().registry.collect() if family.name.startswith("samovar_")}
    assert named == made - {"samovar_build"}
