"""What is committed, what must never be, and what the files at the root promise."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

from mage_project.lib.settings import ROOT, load_settings, reading

DEV_ENV = ROOT / "dev.env"
ASSIGNMENT = re.compile(r"^(# )?([A-Z][A-Z0-9_]+)=(.*)$")
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this copy of the project is no git repository, so there is nothing to ask about it")
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def variables_read() -> set[str]:
    """Every variable that lib/settings asks the environment for."""
    tree = ast.parse(Path(reading.__file__).read_text())
    readers = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    constants = [node.value for reader in readers for node in ast.walk(reader) if isinstance(node, ast.Constant)]
    return {value for value in constants if isinstance(value, str) and re.fullmatch(r"[A-Z]+(_[A-Z]+)+", value)}


def variables_described() -> dict[str, str]:
    """The variables of dev.env with their values, those that are commented out among them."""
    matches = (ASSIGNMENT.match(line) for line in DEV_ENV.read_text().splitlines())
    return {match[2]: match[3] for match in matches if match}


@pytest.mark.parametrize(
    "path",
    [
        *(".env", ".env.production", "mage_project/.env"),
        *("key.pem", "terraform/mage.key", "gcp-credentials.json", "docs/my-service-account.json"),
        *("terraform/terraform.tfstate", "terraform/terraform.tfstate.backup", "terraform/.terraform/x"),
        *(".cantrip/services.json", ".cantrip/postgres/data/PG_VERSION", ".venv/bin/python"),
        *("mage_project/.variables/x", "mage_project/.logs/x", "mage_project/pipelines/p/__pycache__/x.pyc"),
    ],
)
def test_secrets_and_state_stay_out_of_commits(path: str) -> None:
    assert git("check-ignore", "--quiet", "--no-index", path).returncode == 0


@pytest.mark.parametrize(
    "path", ["dev.env", "uv.lock", "requirements.txt", "io_config.yaml", "mage_project/io_config.yaml"]
)
def test_what_a_fresh_clone_needs_is_not_ignored(path: str) -> None:
    assert git("check-ignore", "--quiet", "--no-index", path).returncode == 1


def test_nothing_that_is_ignored_is_committed() -> None:
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard").stdout == ""


def test_dev_env_describes_every_variable_that_is_read() -> None:
    read = variables_read()
    assert {"CANTRIP_HOME", "POSTGRES_PASSWORD", "TAXI_BASE_URL", "HTTP_ATTEMPTS", "RAW_KEEP_GB"} <= read
    assert read == set(variables_described())


def test_each_variable_stands_under_a_line_that_says_what_it_is() -> None:
    above = ""
    for line in DEV_ENV.read_text().splitlines():
        if ASSIGNMENT.match(line):
            assert re.match(r"# [A-Z].{10,}\.?$|# parquet", above), f"{line} has no description"
        else:
            above = line


def test_dev_env_holds_no_secret_and_can_be_used_as_it_is(tmp_path: Path) -> None:
    assert [name for name in variables_described() if re.search("PASSWORD|KEY|SECRET|TOKEN", name)] == [
        "POSTGRES_PASSWORD",
        "GOOGLE_SERVICE_ACC_KEY_FILEPATH",
    ]
    assert variables_described()["POSTGRES_PASSWORD"] == variables_described()["GOOGLE_SERVICE_ACC_KEY_FILEPATH"] == ""
    active = {name: value or "" for name, value in dotenv_values(DEV_ENV).items()}
    assert load_settings(active, root=tmp_path) == load_settings({}, root=tmp_path)


def test_what_is_commented_out_is_the_default(tmp_path: Path) -> None:
    values = {name: value for name, value in variables_described().items() if not name.startswith("POSTGRES_")}
    assert len(values) > 10
    assert load_settings(values, root=tmp_path) == load_settings({}, root=tmp_path)


def test_io_config_asks_for_nothing_that_dev_env_does_not_describe() -> None:
    asked = re.findall(r"env_var\('([A-Z_]+)'", (ROOT / "io_config.yaml").read_text())
    assert asked
    assert set(asked) <= set(variables_described())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []


def test_the_readme_shows_the_ways_in() -> None:
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^(?:make|\./cantrip) ([a-z]+)", text, re.MULTILINE)
    assert {"demo", "test", "up", "run", "ledger"} <= set(commands)
    assert len(re.findall(r"!\[[^\]]+\]\(docs/images/", text)) >= 2


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "lint", "check", "ui", "bench"} <= targets
    named = {name for path in DOCUMENTS for name in re.findall(r"`?make ([a-z-]+)`", path.read_text())}
    assert named <= targets


@pytest.mark.parametrize("script", ["cantrip", ".ci/run"])
def test_scripts_can_be_executed(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111 == 0o111
