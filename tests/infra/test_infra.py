"""The image and the compose stack, as far as they can be held to the code without a Docker engine."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "infra/compose.yaml"
LOCK = ROOT / "requirements.lock"


def _tool(name: str) -> str:
    """A development dependency's program, from the environment that runs the tests."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert path, f"{name} is missing: install the `dev` extra"
    return path


def _run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def services() -> dict[str, dict]:
    return yaml.safe_load(COMPOSE.read_text())["services"]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    return dict(line.split("==") for line in LOCK.read_text().splitlines() if "==" in line)


@pytest.fixture(scope="module")
def source() -> str:
    files = (file for package in ("ganmodels", "pipeline", "flows") for file in (ROOT / package).rglob("*.py"))
    return "\n".join(file.read_text() for file in files)


def test_hadolint_finds_nothing_in_the_dockerfile_with_no_rule_ignored():
    assert "hadolint ignore" not in DOCKERFILE.read_text()
    _run(_tool("hadolint"), "--config", "/dev/null", "--failure-threshold", "style", DOCKERFILE)


def test_compose_follows_the_compose_spec():
    _run(_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_the_image_starts_the_command_that_is_installed_and_not_as_root():
    text = DOCKERFILE.read_text()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    final = text[text.rindex("\nFROM ") :]
    entrypoint = re.search(r'^ENTRYPOINT \["([^"]+)"\]$', final, re.MULTILINE)
    user = re.findall(r"^USER (\d+)$", final, re.MULTILINE)
    assert entrypoint and entrypoint[1] in scripts
    assert user and user[-1] != "0"


def test_the_docker_context_has_what_the_build_needs_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    files = {"pyproject.toml", "requirements.lock", project["project"]["readme"], *project["project"]["license-files"]}
    assert allowed == packages | files


def test_torch_is_found_in_the_lock_and_loses_its_build_suffix(pins, tmp_path):
    """Runs the Dockerfile's own sed commands."""
    commands = re.findall(r"sed [^\n]*?> \w+\.txt", DOCKERFILE.read_text())
    assert len(commands) == 2
    shutil.copy(LOCK, tmp_path)
    subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=tmp_path, check=True)
    assert (tmp_path / "torch.txt").read_text() == f"torch=={pins['torch'].partition('+')[0]}\n"
    assert len((tmp_path / "pins.txt").read_text().splitlines()) == len(LOCK.read_text().splitlines())


@pytest.mark.parametrize(("service", "package"), [("mlflow", "mlflow"), ("prefect", "prefect")])
def test_a_server_has_the_version_of_its_client(services, pins, service, package):
    tag = services[service]["image"].rpartition(":")[2]
    assert tag.removeprefix("v").partition("-")[0] == pins[package]


def test_the_job_gets_only_variables_that_the_code_reads(services, source):
    read = set(re.findall(r"""environ(?:\.get\(|\[)["'](\w+)["']""", source))
    assert set(services["ganline"]["environment"]) <= read
    assert "GANLINE_STORAGE" in read and "GANLINE_STORAGE=/storage" in DOCKERFILE.read_text()


@pytest.mark.parametrize("service", ["mlflow", "prefect"])
def test_a_server_gets_only_variables_that_it_knows(services, service):
    from mlflow import environment_variables
    from prefect.settings import get_current_settings

    known = {"DO_NOT_TRACK", *vars(environment_variables), *get_current_settings().to_environment_variables()}
    assert set(services[service]["environment"]) <= known


def test_the_job_waits_for_each_server_and_asks_it_at_its_own_name_and_port(services):
    endpoints = services["ganline"]["environment"]
    for service, variable in (("mlflow", "MLFLOW_TRACKING_URI"), ("prefect", "PREFECT_API_URL")):
        host, port = re.fullmatch(r"http://([^:/]+):(\d+)(?:/api)?", endpoints[variable]).groups()
        assert host == service
        assert f"--port={port}" in services[service]["command"]
        assert f"127.0.0.1:{port}/" in services[service]["healthcheck"]["test"][-1]
        assert services["ganline"]["depends_on"][service]["condition"] == "service_healthy"


def test_ports_are_published_on_loopback_only(services):
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published and all(port.startswith("127.0.0.1:") for port in published)


def test_compose_holds_no_secret(services):
    names = [name for service in services.values() for name in service["environment"]]
    assert not [name for name in names if re.search("PASSWORD|TOKEN|SECRET|KEY|CREDENTIAL", name)]
    assert not re.search(r"://[^/\s]*@", COMPOSE.read_text())
