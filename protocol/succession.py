"""Who speaks for a run whose coordinator is gone: whoever is staked, once the run stands still, as the chain confirms.

The run's coordinator may always speak. Once a run has made no progress for the ledger's timeout, the ledger lets any
contributor or verifier with the minimum stake post its next root and anchor its next record: a stand-in. It goes on
without waiting again, until the coordinator posts or anchors, or after another timeout somebody else does. What a
coordinator says, the stand-in then says under its own peer key. These rules make it count:

1. *What the chain holds counts, whoever said it.* A commitment list counts if it gives the posted root, a record if it
   has the anchored hash, a reward table if its root was proposed or is final. Of several statements for one place the
   confirmed one is taken, before it exists the coordinator's, and only then a stand-in's.
2. *Before the chain says anything*, a stand-in's word is let in, so that it is not lost with its author: if its key is
   of an operator with the minimum stake, if that operator stands in already or the run stood still for the timeout
   since the round's step before, and if it is about the step that comes next. A place holds the words of at most
   `MAX_STAND_INS`; a confirmed one gets in even so. What the chain contradicts is let in no more.
3. *Nobody evicts anybody.* Coordinator and stand-ins have places of their own, so two of them are no equivocation; two
   statements by one of them are, and the ledger takes a stand-in's whole stake for two records of one round.
4. *Opening, ending and refusals are the coordinator's.* A stand-in's closing word declares the last judgements and ends
   nothing on chain: pay needs no end. If the coordinator ends the run on chain, the word must name the same result.

Who comes back, coordinator or stand-in, takes over what the chain holds, and says nothing for a place that is filled.
"""

from dataclasses import dataclass

from protocol.chain import ChainView
from protocol.errors import Malformed, Premature
from protocol.manifest import RunManifest
from protocol.merkle import commitments_root, rewards_root
from protocol.messages import Body, CommitmentList, Finish, RewardTable, RoundRecord, Signed

MAX_STAND_INS = 4  # whose words one place holds before the chain says which counts


def stood_still(chain: ChainView, since: int) -> bool:
    """Tell whether the run made no progress for the ledger's timeout at some time from a block on."""
    blocks = [block for block in chain.activity() if block >= since]
    ends = [*blocks[1:], chain.height]
    return any(end - begin > chain.timeout_blocks for begin, end in zip(blocks, ends, strict=True))


def stands_in(chain: ChainView, key: str) -> bool:
    """Tell whether the operator with a peer key acts for the run's coordinator."""
    acting = chain.operator(chain.stand_in())
    return acting is not None and acting.peer == key


def acts_from(chain: ChainView, key: str = "") -> int | None:
    """Return the first height at which somebody else may take the next step; None before the run opens.

    Args:
        key: address of its peer key, where it matters who has taken over already.
    """
    blocks = chain.activity()
    if not blocks:
        return None
    return blocks[-1] + (0 if stands_in(chain, key) else chain.timeout_blocks + 1)


@dataclass(frozen=True)
class Succession:
    """Hold statements of the coordinator's role against one chain, by the rules above."""

    manifest: RunManifest
    chain: ChainView

    def holds(self, message: Signed[Body]) -> bool | None:
        """Tell whether the chain confirms a statement (True), contradicts it (False), or does not speak of it yet."""
        chain, round_ = self.chain, message.round
        match message.body:
            case CommitmentList() as listed:
                posted = chain.commitments(round_)
                if posted is None:
                    return None
                return posted.count == len(listed.entries) and posted.root == commitments_root(listed)
            case RoundRecord() as record:
                anchored = chain.record_hash(round_)
                return None if anchored is None else anchored == record.digest().hex()
            case RewardTable(entries=entries):
                over = (
                    chain.anchor(round_) is not None
                )  # before that, the root is of an earlier epoch's table
                return (over and bool(entries) and rewards_root(entries) in chain.reward_roots()) or None
            case Finish(parameters=parameters):
                final = chain.finished()
                return None if final is None else final == parameters
            case _:
                return False

    def check(self, message: Signed[Body]) -> bool:
        """Make sure that somebody else than the coordinator may say this; tell whether the chain confirms it.

        Raises:
            Malformed: its author is no operator.
            Premature: as far as we see, the chain contradicts it, its stake is too low, or the coordinator has time.
        """
        chain, kind = self.chain, message.body.kind
        operator = next(
            (
                one
                for one in chain.operators()
                if any(key.peer == message.author for key in chain.keys(one.number))
            ),
            None,
        )
        if operator is None:
            raise Malformed(f"{kind} not signed by the run's coordinator, nor by an operator")
        held = self.holds(message)
        if held:
            return True
        if held is not None:
            raise Premature(f"the chain holds another {kind} for round {message.round}")
        if operator.peer != message.author:
            raise Premature(f"{kind} signed with a key that number {operator.number} has no more")
        if operator.stake_wei < chain.min_stake_wei:
            raise Premature(f"{kind} by number {operator.number}, who has not the minimum stake")
        before = self._before(message)
        if before is None:
            raise Premature(f"{kind} of round {message.round} by a stand-in, before it is due")
        if not stands_in(chain, message.author) and not stood_still(chain, before):
            raise Premature(f"{kind} of round {message.round} by a stand-in, while the coordinator has time")
        return False

    def _before(self, message: Signed[Body]) -> int | None:
        """Return the block of the step after which a statement is due; None if it is not."""
        chain, round_ = self.chain, message.round
        match message.body:
            case CommitmentList():
                return chain.anchor(round_ - 1)
            case RoundRecord():
                posted = chain.commitments(round_)
                return None if posted is None else posted.block
            case _:
                return chain.anchor(round_)
