"""The command line: every command loads and helps, every end has its exit code and one clear line, and nothing else is on stdout."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest

from stages import cli, parts, secrets

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> int:
    """The exit code, in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, without our variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TURNOUT_")}
    return subprocess.run(
        [sys.executable, "-m", "stages.cli", *arguments],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def paths() -> list[tuple[str, ...]]:
    """Every command and subcommand."""
    found: list[tuple[str, ...]] = []
    context = click.Context(cli.turnout)
    for name in cli.COMMANDS:
        command = cli.turnout.get_command(context, name)
        assert command is not None
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, sub) for sub in command.commands]
    return found


@pytest.mark.parametrize("path", paths(), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*path, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: turnout {' '.join(path)}")
    assert len(out.splitlines()) > 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rum",), "'run'"),
        (("demmo",), "no such command: 'demmo'; did you mean 'demo'?"),
        (("xyz",), "no such command: 'xyz'. Known are: demo,"),
        (("run", "creat"), "no such part: 'creat'; did you mean 'create'? Known are: ingress, normalize, match, create, campaign-membership, console"),
        (("run",), "name at least one part: ingress, "),
        (("demo", "--registrants", "many"), "'many' is not a valid integer"),
        (("topics", "aply"), "aply"),
        (("dead-letters", "retry"), "say which: ids, --workspace, --stage, --cause, or --all"),
        (("dead-letters", "discard", "--all"), "--reason"),
        (("dead-letters", "discard", "--all", "--reason", " "), "blank"),
        (("replay", "--stage", "creat", "--from", "2026-01-01"), "did you mean 'create'?"),
        (
            ("replay", "--stage", "create", "--from", "2026-02-01", "--to", "2026-01-01"),
            "nothing lies between --from 2026-02-01T00:00:00.000Z and --to 2026-01-01",
        ),
        (("replay", "--stage", "create", "--from", "3026-01-01"), "and --to now"),
        (("lag", "--jsn"), "--json"),
        (("workspace", "shew"), "show"),
        (("settings", "apply", "/no/such.toml"), "/no/such.toml"),
        (("lag", "--watch", "--json"), "don't go together"),
        (("up", "--data-dir", "x"), "add --embedded"),
        (("check", "--accept-organization"), "wants the ORG"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_wrong_usage_is_told_on_stderr_with_exit_code_2(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert words in told.err
    assert len(told.err.strip().splitlines()) == 1


@pytest.mark.parametrize("path", [(), ("keys",), ("sandbox",)], ids=" ".join)
def test_without_arguments_the_help_is_told_plainly(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with the exit code of wrong usage: nothing was done."""
    assert run(*path) == 2
    told = capsys.readouterr()
    assert run(*path, "--help") == 0
    assert (told.out, told.err) == ("", capsys.readouterr().out)


def test_mistakes_in_the_environment_are_told_at_once_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TURNOUT_PARTITIONS", "none")
    monkeypatch.setenv("TURNOUT_LOG", "xml")
    assert run("topics", "apply") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "TURNOUT_PARTITIONS" in told.err
    assert "TURNOUT_LOG" in told.err


def test_mistakes_in_the_settings_file_are_told_before_kafka_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[[org]]\nid = "a"\nflow = "magic"\n[[workspace]]\nid = "w"\nplam = "enterprise"\n')
    assert run("settings", "apply", str(file)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "nothing was changed" in told.err
    assert "line 3: " in told.err
    assert "line 6: " in told.err
    assert "plam" in told.err


def test_up_names_the_variable_of_the_address_that_is_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listens:
        for variable in ("TURNOUT_INGRESS", "TURNOUT_CONSOLE"):
            monkeypatch.setenv("TURNOUT_INGRESS", "127.0.0.1:0")
            monkeypatch.setenv(variable, f"127.0.0.1:{listens.getsockname()[1]}")
            assert run("up") == 1
            assert f"set {variable} to a free host:port" in capsys.readouterr().err


def test_orgs_that_would_need_ports_over_the_last_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sandbox", "salesforce", "--port", "65535", "--orgs", "2") == 2
    assert "choose a lower --port" in capsys.readouterr().err


@pytest.mark.parametrize("prune", [False, True])
def test_an_org_that_is_nowhere_is_told_beside_the_other_mistakes_where_that_can_be_known(tmp_path: Path, prune: bool) -> None:
    """With --prune by the file alone; else Kafka would have to say, and where it is not there the rest is told without it."""
    file = tmp_path / "settings.toml"
    file.write_text('[[workspace]]\nid = "w"\norg = "nope"\nplam = "enterprise"\n')
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        ended = process("settings", "apply", str(file), *(["--prune"] if prune else []), TURNOUT_KAFKA_BOOTSTRAP=address)
    assert (ended.returncode, "workspace[1].plam" in ended.stderr) == (2, True)
    assert ('line 3: workspace[1].org: no org "nope" in this file' in ended.stderr) == prune


def test_without_kafka_one_line_names_the_address_and_the_variable() -> None:
    """Exit code 1, of a part as of a command."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        commands = (("run", "match"), ("topics", "apply"), ("lag",), ("settings", "show"))
        with ThreadPoolExecutor() as at_once:
            answers = list(at_once.map(lambda arguments: process(*arguments, TURNOUT_KAFKA_BOOTSTRAP=address), commands))
    for ended in answers:
        assert (ended.returncode, ended.stdout) == (1, "")
        [line] = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
        assert line.startswith(f"turnout: no Kafka broker answers at {address}")
        assert "TURNOUT_KAFKA_BOOTSTRAP" in line


@pytest.mark.parametrize("what", ["salesforce", "livestorm", "broker"])
def test_a_port_in_use_is_told_with_how_to_mend_it(what: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = process("sandbox", what, "--port", port)
    assert ended.returncode == 1
    assert ended.stdout == ""
    last = ended.stderr.strip().splitlines()[-1]
    assert port in last
    assert "--port" in last
    assert "Traceback" not in ended.stderr


def test_json_is_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "new", "--json") == 0
    told = capsys.readouterr()
    assert set(json.loads(told.out)) == {"key"}
    assert told.err == ""


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(secrets, "new_key", interrupted)
    assert run("keys", "new") == 130


def test_what_nobody_expected_ends_with_1_and_shows_no_address(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> str:
        raise RuntimeError("ada@example.com is in the way")

    monkeypatch.setattr(secrets, "new_key", broken)
    assert run("keys", "new") == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "RuntimeError" in told.err
    assert "ada@example.com" not in told.err
    assert told.err.splitlines()[-1].startswith("turnout: this should not happen")


def test_one_error_inside_task_groups_is_told_like_that_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def grouped() -> str:
        raise BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [parts.TopicsNotReady("run `turnout topics apply`")])])

    monkeypatch.setattr(secrets, "new_key", grouped)
    assert run("keys", "new") == 1
    assert capsys.readouterr().err == "turnout: run `turnout topics apply`\n"


def test_a_start_for_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from stages import cli\ntry: cli.main(['keys', '--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('aiokafka', 'aiohttp', 'simple_salesforce', 'lark', 'prometheus_client') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_a_command_that_only_looks_does_not_import_the_steps() -> None:
    """Nor what they call Salesforce with: it would start in twice the time."""
    code = "import sys; from stages import connection, lag, trace; print({'simple_salesforce', 'stages.match'} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "set()"


@pytest.mark.parametrize("stand_in", ["salesforce", "livestorm"])
@pytest.mark.parametrize(
    ("end", "code"), [(signal.SIGTERM, 0), (None, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "end of its standard input", "Ctrl-C"]
)
def test_a_stand_in_stops_when_it_is_told_to(end: signal.Signals | None, code: int, stand_in: str) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "stages.cli", "sandbox", stand_in, "--port", "0", "--stop-with-stdin"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    with server.stdin, server.stdout:
        assert "ready" in server.stdout.readline()
        if end is None:
            server.stdin.close()
        else:
            server.send_signal(end)
        assert server.wait(30) == code
