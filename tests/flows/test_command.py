"""The command's manners: help, exit codes, one-line errors, one JSON object."""

import json

import pytest

COMMANDS = ["run", "shard", "train", "lookup", "generate", "evaluate", "release", "promote", "rollback"]
COMMANDS += ["index", "verify", "doctor", "config show", "config validate", "config digest"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(embedded, command):
    result = embedded(*command.split(), "--help")
    assert result.code == 0
    assert f"Example: ganline {command}" in " ".join(result.out.split())
    assert "--json" in result.out


def test_config_show_prints_the_resolved_recipe(embedded):
    shown = embedded("config", "show", "mnist", "--json", "--set", "training.images=5").json
    assert shown["training"]["images"] == 5
    assert (shown["data"]["resolution"], shown["data"]["encoding"]) == (28, "raw")


def test_config_digest_follows_every_key(embedded):
    first = embedded("config", "digest", "mnist", "--json").json["digest"]
    assert embedded("config", "digest", "mnist").out.strip() == first
    assert embedded("config", "digest", "mnist", "--set", "training.images=5", "--json").json["digest"] != first


def test_json_stays_alone_on_standard_output(embedded):
    result = embedded("config", "show", "mnist", "--json")
    assert len(result.out.splitlines()) == 1
    json.loads(result.out)
