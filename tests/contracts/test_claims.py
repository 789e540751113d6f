"""A claim rests on the table whose root is final on chain, whoever serves it and whatever else is served."""

import json

import pytest

from contracts import claims
from contracts.claims import parse_tables, prove_reward
from protocol.canonical import canonical_json
from protocol.errors import LedgerError, Malformed
from protocol.merkle import reward_leaf, reward_tree, verify_proof
from protocol.messages import Finish, RewardEntry, RewardTable, sign
from tests.protocol.makers import digest_of, key, manifest

ALICE, BOB, CAROL = (key(name).address for name in ("alice", "bob", "carol"))


def table(epoch: int, **amounts: int) -> RewardTable:
    accounts = {"alice": ALICE, "bob": BOB, "carol": CAROL}
    entries = [RewardEntry(account=accounts[name], cumulative_wei=wei) for name, wei in amounts.items()]
    return RewardTable(epoch=epoch, entries=tuple(sorted(entries, key=lambda entry: entry.account)))


def settlement(*tables: RewardTable, signer: str = "coordinator") -> bytes:
    messages = [sign(key(signer), manifest(), 0, "coordinator", one).to_json() for one in tables]
    return json.dumps({"rewards": messages}).encode()


def test_tables_are_read_as_published() -> None:
    published = (table(0, alice=1), table(1, alice=2, bob=2**70))
    assert parse_tables(settlement(*published)) == published
    assert parse_tables(b'{"rewards": [], "finish": null}') == ()


def test_other_messages_among_the_tables_are_passed_over() -> None:
    closing = sign(
        key("coordinator"), manifest(), 5, "coordinator", Finish(parameters=digest_of("p"), judged=())
    )
    rewards = [json.loads(closing.wire), *json.loads(settlement(table(0, alice=1)))["rewards"]]
    assert parse_tables(canonical_json({"rewards": rewards})) == (table(0, alice=1),)


def test_the_table_with_the_final_root_counts_and_its_proof_holds() -> None:
    old, final, newer = table(0, alice=1), table(1, alice=5, bob=7, carol=9), table(2, alice=900, bob=9)
    root = reward_tree(final.entries).root
    for account, wei in ((ALICE, 5), (BOB, 7), (CAROL, 9)):
        found = prove_reward((old, final, newer), root, account.lower())
        assert found is not None
        assert (found.account, found.cumulative_wei) == (account, wei)
        assert verify_proof(root, reward_leaf(account, wei), found.proof)


def test_who_is_not_in_the_final_table_earned_nothing() -> None:
    final, newer = table(0, alice=5), table(1, alice=5, bob=7)
    assert prove_reward((final, newer), reward_tree(final.entries).root, BOB) is None


def test_without_the_final_table_nothing_is_proven() -> None:
    root = reward_tree(table(0, alice=5).entries).root
    for tables in ((), (table(0),), (table(0, alice=6), table(0, alice=5, bob=1))):
        with pytest.raises(LedgerError, match="final root"):
            prove_reward(tables, root, ALICE)


def test_a_table_signed_by_anybody_still_needs_the_final_root() -> None:
    forged = parse_tables(settlement(table(0, alice=10**30), signer="mallory"))
    with pytest.raises(LedgerError, match="final root"):
        prove_reward(forged, reward_tree(table(0, alice=5).entries).root, ALICE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"rewards": 7}',
        b'{"rewards": null}',
        b'{"rewards": "text"}',
        b'{"rewards": {"kind": "rewards"}}',
        b'{"rewards": [{"kind": "rewards"}]}',
        b'{"rewards": [1e999]}',
        b'{"rewards": ["\\ud800"]}',
        b'{"rewards": [' + b"9" * 5000 + b"]}",
        b'{"rewards": ' + b"[" * 200_000,
        b'{"a":' * 100_000,
        '{"rewards": []}'.encode("utf-16"),
    ],
)
def test_hostile_settlements_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_tables(data)


def test_altered_tables_are_refused() -> None:
    for field, value in (("kind", "finish"), ("signature", "00"), ("round", -1), ("extra", 1)):
        document = json.loads(settlement(table(0, alice=1)))
        document["rewards"][0][field] = value
        with pytest.raises(Malformed):
            parse_tables(json.dumps(document).encode())
    document = json.loads(settlement(table(0, alice=1)))
    document["rewards"][0]["body"]["entries"][0]["cumulative_wei"] = -1
    with pytest.raises(Malformed):
        parse_tables(json.dumps(document).encode())


def test_a_settlement_beyond_all_bounds_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "MAX_SETTLEMENT_BYTES", 100)
    with pytest.raises(Malformed, match="too long"):
        parse_tables(settlement(table(0, alice=1)))
