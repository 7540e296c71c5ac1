"""Keys on disk, and who holds them."""

import stat
import threading

import pytest

from samovar.errors import BadRequest, FormatError
from samovar.serving.keys import KeyFile, Keys
from tests.cli.fakes import samovar


@pytest.fixture
def file(tmp_path):
    return KeyFile(tmp_path / "store" / "keys.json")


def test_a_key_is_known_by_its_text_which_is_kept_nowhere(file):
    text = file.create("bob", is_admin=True, requests_per_minute=3, tokens_per_minute=4, max_streams=5)
    caller = Keys(file).holder(text)
    assert (caller.name, caller.is_admin) == ("bob", True)
    assert (caller.max_requests_per_minute, caller.max_tokens_per_minute, caller.max_streams) == (3, 4, 5)
    assert text not in file.path.read_text()
    assert caller.id not in text
    assert len(text) > 43  # 256 bits in base64
    for wrong in ("", text[:-1], text + "a", text.swapcase(), "bob", file.read()[0].sha256, "\udc80é"):
        assert Keys(file).holder(wrong) is None


def test_the_file_is_for_its_owner_alone_and_nothing_else_is_left_behind(file):
    file.create("bob")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert {path.name for path in file.path.parent.iterdir()} == {"keys.json", "keys.lock"}
    file.path.chmod(0o666)
    with pytest.raises(FormatError, match="others may write it"):
        file.read()


def test_changes_are_seen_by_who_reads_already(file):
    keys = Keys(file)
    assert not keys.are_there()
    first = file.create("first")
    assert keys.are_there()
    second = file.create("second")
    assert keys.holder(first).name == "first"
    file.revoke("first")
    assert keys.holder(first) is None
    assert keys.holder(second).name == "second"
    file.revoke(file.read()[0].id)
    assert not keys.are_there()


def test_a_key_expires_and_its_being_there_still_keeps_others_out(file):
    now = [0.0]
    text = file.create("bob", days=2)
    keys = Keys(file, clock=lambda: now[0])
    now[0] = file.read()[0].expires_s - 1
    assert keys.holder(text) is not None
    now[0] += 1
    assert keys.holder(text) is None
    assert keys.are_there()


def test_a_damaged_file_lets_nobody_in_until_it_is_mended(file):
    text = file.create("bob")
    keys, sound = Keys(file), file.path.read_bytes()
    for bad in (b"", b"{", b"[]", b'{"keys": [{}]}', b'{"more": 1}', b'{"keys": [], "k": "\xff"}'):
        file.path.write_bytes(bad)
        for ask in (lambda: keys.holder(text), keys.are_there, lambda: Keys(file)):
            with pytest.raises(FormatError, match="no sound file of keys"):
                ask()
    file.path.write_bytes(sound)
    assert keys.holder(text).name == "bob"


def test_keys_made_side_by_side_are_all_kept(file):
    makers = [threading.Thread(target=file.create, args=(f"k{i}",)) for i in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert {key.name for key in file.read()} == {f"k{i}" for i in range(8)}


def test_a_key_of_the_owners_own_is_no_administrators(file):
    caller = Keys(file, own="something long enough").holder("something long enough")
    assert caller is not None
    assert not caller.is_admin
    assert Keys(file, own="something long enough").are_there()


@pytest.mark.parametrize(
    ("name", "options"),
    [("", {}), ("a b", {}), ("a\n", {}), ("bob", {}), ("x", {"max_streams": 0}), ("x", {"requests_per_minute": -1}),
     ("x", {"days": 0}), ("x", {"days": float("nan")})],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(file, name, options):
    file.create("bob")
    with pytest.raises(BadRequest):
        file.create(name, **options)
    with pytest.raises(BadRequest, match="no key named"):
        file.revoke("nobody")
    assert [key.name for key in file.read()] == ["bob"]


def test_the_command_makes_lists_and_revokes_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMOVAR_HOME", str(tmp_path))
    made = samovar("keys", "create", "bob", "--admin", "--max-streams", "2", "--expires", "30")
    assert made.code == 0
    assert Keys(KeyFile(tmp_path / "keys.json")).holder(made.out.strip()).is_admin
    assert "not shown again" in made.err
    listed = samovar("keys", "list").out
    assert all(part in listed for part in ("bob", "admin", "2 at once", "expires"))
    assert made.out.strip() not in listed
    assert samovar("keys", "create", "bob").code == 1
    assert samovar("keys", "revoke", "bob").code == 0
    assert samovar("keys", "revoke", "bob").code == 1
    assert samovar("keys", "list").out == ""
