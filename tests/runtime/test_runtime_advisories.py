"""Known faults of builds: which are allowed, shown, refused; and the options that no server gets."""

from __future__ import annotations

import re
from importlib import resources

import pytest
import yaml

from noa_lab.errors import BadInput, SetupError
from noa_lab.runtime import PIN, advice_for, refuse_known_bad

CHAT = "CVE-2026-107183"


def actions(build: int, **options: object) -> dict[str, str]:
    return {advice.id: advice.action for advice in advice_for(build, **options)}


@pytest.mark.parametrize(
    ("build", "affected"), [(8226, False), (8227, True), (11312, True), (11392, True), (11393, False)]
)
def test_the_range_of_the_fault_in_the_default_build(build: int, affected: bool) -> None:
    assert (CHAT in actions(build)) == affected


def test_the_default_build_is_allowed_on_loopback_alone() -> None:
    assert actions(PIN.build_number) == {CHAT: "allow"}
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "/run/x.sock", "127.0.0.1,localhost"):
        assert refuse_known_bad(PIN.build_number, ["--host", host])[0].action == "allow"
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1,0.0.0.0", "localhost.example.org"):
        with pytest.raises(SetupError, match=CHAT) as caught:
            refuse_known_bad(PIN.build_number, ["--host", host])
        assert caught.value.fields["fixed"] == 11393
        assert "b11393" in caught.value.fix
        assert refuse_known_bad(11393, ["--host", host]) == ()
    with pytest.raises(SetupError):
        refuse_known_bad(PIN.build_number, ["--host", "127.0.0.1", "--host=0.0.0.0"])


def test_a_build_without_a_number_counts_as_affected() -> None:
    for build in (0, 1):
        assert actions(build)[CHAT] == "allow"
        with pytest.raises(SetupError, match="unknown build"):
            refuse_known_bad(build, ["--host", "0.0.0.0"])


@pytest.mark.parametrize(
    ("build", "arguments", "advisory"),
    [
        (9000, ["--sleep-idle-seconds", "60"], "CVE-2026-43631"),
        (9060, ["--sleep_idle_seconds", "60"], "CVE-2026-43631"),
        (9000, ["--rpc", "10.0.0.1:50052"], "CVE-2026-118375"),
        (9058, ["--slot-save-path", "/tmp", "--host", "10.1.1.1"], "CVE-2026-"),
    ],
)
def test_an_option_that_switches_a_fault_on_is_refused(build: int, arguments: list[str], advisory: str) -> None:
    with pytest.raises(SetupError, match=advisory):
        refuse_known_bad(build, arguments)
    refuse_known_bad(12000, arguments)


def test_a_fault_that_can_be_lived_with_is_a_warning() -> None:
    assert actions(8000) == {"CVE-2026-27940": "warn"}
    assert actions(9000, flags=("--slot-save-path",))["CVE-2026-43629"] == "warn"


@pytest.mark.parametrize(
    "flag",
    [
        "--tools",
        "--tools=all",
        "--tools-runtime",
        "--agent",
        "--mcp-servers-config",
        "--mcp_servers_json",
        "--ui-mcp-proxy",
    ],
)
def test_options_that_give_the_model_this_machine_are_refused(flag: str) -> None:
    with pytest.raises(BadInput) as caught:
        refuse_known_bad(99999, ["-m", "x", flag])
    assert caught.value.fields["field"] == flag.partition("=")[0].replace("_", "-")
    assert ":" in caught.value.message


def test_options_that_only_begin_alike_are_not() -> None:
    refuse_known_bad(99999, ["--agentless", "--no-ui-mcp-proxy", "-m", "--tools-in-a-file-name.gguf"][:3])
    with pytest.raises(BadInput, match="not started with --agent:"):
        refuse_known_bad(99999, ["--agentless", "--agent"])


def test_the_table_is_whole() -> None:
    data = yaml.safe_load(resources.files("noa_lab.runtime").joinpath("advisories.yaml").read_text())
    for each in data["advisories"]:
        assert re.fullmatch(r"(CVE-\d{4}-\d+|GHSA-[\w-]+)", each["id"])
        assert each["builds"].get("first", 0) < each["builds"]["fixed"]
        assert each["text"].endswith(".")
        for rule in each["rules"]:
            assert set(rule) <= {"host", "flag", "action", "because"}
            assert rule["action"] in {"allow", "warn", "refuse"}
            assert rule.get("host", "other") in {"loopback", "other"}
    assert all(each["flag"].startswith("--") and each["because"] for each in data["blocked_flags"])
