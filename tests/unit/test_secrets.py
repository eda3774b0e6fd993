"""Keys that encrypt secrets, and the file that holds them."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages import secrets
from stages.secrets import Secrets, SecretsError, load, new_key


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def keys_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path


def test_what_is_encrypted_comes_back_and_does_not_show() -> None:
    cipher = Secrets([new_key()], "test")
    token = cipher.encrypt("geheim 🎟")
    assert "geheim" not in token
    assert cipher.decrypt(token) == "geheim 🎟"
    assert cipher.encrypt("geheim 🎟") != token


def test_the_first_key_writes_and_the_others_still_read() -> None:
    old, new = new_key(), new_key()
    token = Secrets([old], "old").encrypt("x")
    both = Secrets([new, old], "both")
    assert both.decrypt(token) == "x"
    assert Secrets([new], "new").decrypt(both.encrypt("y")) == "y"


def test_only_what_an_older_key_has_encrypted_is_renewed() -> None:
    old, new = new_key(), new_key()
    token, both = Secrets([old], "old").encrypt("x"), Secrets([new, old], "both")
    renewed = both.renewed(token)
    assert Secrets([new], "new").decrypt(renewed) == "x"
    assert both.renewed(renewed) == renewed
    with pytest.raises(SecretsError):
        Secrets([new], "new").renewed(token)


@pytest.mark.parametrize("token", ["", "no token", "gAAAAA", "ü"])
def test_what_no_key_fits_says_how_to_mend_it(token: str) -> None:
    with pytest.raises(SecretsError, match="apply the settings again"):
        Secrets([new_key()], "the file").decrypt(token)


def test_no_key_shows_in_a_repr() -> None:
    key = new_key()
    assert key not in repr(Secrets([key], "file"))


def test_the_default_file_is_made_on_first_use_for_its_user_alone(home: Path) -> None:
    cipher = load(None)
    path = secrets.default_file()
    assert path.is_relative_to(home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(None).decrypt(cipher.encrypt("x")) == "x"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_of_many_that_start_at_once_all_use_one_key(home: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        ciphers = list(pool.map(lambda _: load(None), range(64)))
    token = ciphers[0].encrypt("x")
    assert {cipher.decrypt(token) for cipher in ciphers} == {"x"}
    assert len(list(secrets.default_file().parent.iterdir())) == 1


def test_a_named_file_is_never_made(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(SecretsError, match="turnout keys new"):
        load(path)
    assert not path.exists()


def test_comments_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    key = new_key()
    path = keys_file(tmp_path / "keys", "# rotated in May", "", f"  {key} ")
    assert Secrets([key], "x").decrypt(load(path).encrypt("x")) == "x"


def test_a_line_that_is_no_key_is_named_but_not_shown(tmp_path: Path) -> None:
    path = keys_file(tmp_path / "keys", new_key(), "hunter2")
    with pytest.raises(SecretsError, match=":2: not a key") as raised:
        load(path)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe"])
def test_a_file_without_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(SecretsError) as raised:
        load(path)
    assert raised.value.exit_code == 2


def test_a_place_where_nothing_can_be_made_names_the_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = home / "file"
    blocker.write_text("")
    monkeypatch.setattr(secrets, "default_file", lambda: blocker / "below" / "keys")
    with pytest.raises(SecretsError, match="TURNOUT_SECRET_KEYS_FILE"):
        load(None)
