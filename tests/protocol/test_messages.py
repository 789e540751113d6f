"""A message has one spelling, one author and one place where it counts."""

import json
from dataclasses import replace

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import canonical_json
from protocol.errors import Malformed
from protocol.messages import (
    MAX_MESSAGE_BYTES,
    Commitment,
    Seal,
    Signed,
    Verdict,
    parse_message,
    sign,
    signing_digest,
)
from tests.protocol.makers import commitment, digest_of, key, manifest, opening


def signed_commitment() -> Signed[Commitment]:
    return sign(key("peer"), manifest(), 3, "contributor", commitment(1))


def test_a_message_survives_the_wire_and_names_its_author() -> None:
    message = signed_commitment()
    parsed = parse_message(message.wire)
    assert parsed == message
    assert parsed.author == key("peer").address


def test_the_signing_digest_is_the_one_that_eip712_defines() -> None:
    run, body = manifest(), commitment(1)
    typed = {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "Message": [
                {"name": "run", "type": "bytes32"},
                {"name": "round", "type": "uint64"},
                {"name": "role", "type": "string"},
                {"name": "kind", "type": "string"},
                {"name": "body", "type": "bytes32"},
            ],
        },
        "primaryType": "Message",
        "domain": {"name": "Murmur", "version": "1", "chainId": 31337, "verifyingContract": run.ledger},
        "message": {
            "run": bytes.fromhex(run.run_id),
            "round": 3,
            "role": "contributor",
            "kind": "commitment",
            "body": body.digest(),
        },
    }
    message = sign(key("peer"), run, 3, "contributor", body)
    recovered = Account.recover_message(encode_typed_data(full_message=typed), signature=message.signature)
    assert recovered == key("peer").address


@pytest.mark.parametrize(
    "field", ["chain_id", "ledger", "run", "round", "role"], ids=lambda name: f"another_{name}"
)
def test_a_signature_counts_nowhere_else(field: str) -> None:
    message = signed_commitment()
    others = {
        "chain_id": 1,
        "ledger": "0x" + "22" * 20,
        "run": digest_of("another run"),
        "round": 4,
        "role": "verifier",
    }
    binding = {
        "chain_id": message.chain_id,
        "ledger": message.ledger,
        "run": message.run,
        "round": message.round,
        "role": message.role,
    }
    original = signing_digest(*binding.values(), message.body)  # type: ignore[arg-type]
    moved = signing_digest(*(binding | {field: others[field]}).values(), message.body)  # type: ignore[arg-type]
    assert original.hex() == message.id
    assert moved != original


def test_a_role_may_not_say_what_is_not_its_to_say() -> None:
    with pytest.raises(ValueError, match="does not sign"):
        sign(key("peer"), manifest(), 0, "verifier", commitment(1))
    with pytest.raises(Malformed, match="does not sign"):
        parse_message(replace(signed_commitment(), role="verifier").wire)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v | {"extra": 1}, "extra"),
        (lambda v: v | {"round": -1}, "round"),
        (lambda v: v | {"round": "3"}, "canonically"),
        (lambda v: v | {"kind": "gossip"}, "unknown kind"),
        (lambda v: v | {"signature": "00" * 65}, "signature"),
        (lambda v: v | {"signature": v["signature"][:-2] + "05"}, "signature"),
        (lambda v: v | {"run": v["run"].upper()}, "run"),
        (lambda v: v | {"body": v["body"] | {"segments": ["00" * 32]}}, "segments"),
        (lambda v: v | {"body": v["body"] | {"segments": ["00" * 32] * 1002}}, "exceeds|segments"),
        (lambda v: v | {"body": v["body"] | {"number": 0}}, "number"),
        (lambda v: v | {"body": {}}, "number"),
    ],
)
def test_a_message_out_of_bounds_is_refused_with_the_reason(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    value = json.loads(signed_commitment().wire)
    with pytest.raises(Malformed, match=reason):
        parse_message(canonical_json(change(value)))


def test_other_spellings_of_the_same_json_are_refused() -> None:
    wire = signed_commitment().wire
    for spelled in (
        wire + b" ",
        b" " + wire,
        wire.replace(b'"round":3', b'"round":3.0'),
        wire[:-1] + b',"round":3}',
    ):
        with pytest.raises(Malformed):
            parse_message(spelled)


def test_a_high_s_signature_is_refused() -> None:
    message = signed_commitment()
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    s = order - int.from_bytes(message.signature[32:64], "big")
    mirrored = message.signature[:32] + s.to_bytes(32, "big") + bytes([55 - message.signature[64]])
    with pytest.raises(Malformed, match="high s"):
        parse_message(replace(message, signature=mirrored).wire)


def test_a_message_longer_than_a_gossip_frame_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(Malformed, match="exceeds"):
        parse_message(b"[" * (MAX_MESSAGE_BYTES + 1))


@given(st.binary(max_size=300))
def test_garbage_is_malformed_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_message(data)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_changed_byte_never_keeps_statement_and_author(position: int, garbage: bytes) -> None:
    message = signed_commitment()
    at = position % len(message.wire)
    changed = message.wire[:at] + garbage + message.wire[at + len(garbage) :]
    try:
        parsed = parse_message(changed)
    except Malformed:
        return
    assert (parsed.id, parsed.author) != (message.id, message.author) or parsed == message


def test_verdicts_and_seals_are_about_draws_and_an_opening_about_a_draw_or_a_case() -> None:
    """What only jurors say lies on the chain."""
    assert not {"case"} & (Verdict.model_fields.keys() | Seal.model_fields.keys())
    body = opening()
    asked = body.model_copy(update={"case": 7})
    assert body.case == 0
    assert body.digest() != asked.digest()
    signed = sign(key("peer"), manifest(), 3, "contributor", asked)
    assert parse_message(signed.wire) == signed


@pytest.mark.parametrize("case", [-1, 1.5, "1"])
def test_a_case_is_a_number_of_the_jurys(case: object) -> None:
    value = json.loads(sign(key("peer"), manifest(), 3, "contributor", opening()).wire)
    value["body"]["case"] = case
    with pytest.raises(Malformed):
        parse_message(canonical_json(value))
