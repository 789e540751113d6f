"""Set up a network on one machine: chain, contracts, stakes, and the command line of each process."""

import json
import os
import sys
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from eth_account.signers.local import LocalAccount
from web3 import Web3

from contracts.anvil import request, set_coin
from contracts.chain import connect
from contracts.client import Ledger
from contracts.sender import Sender
from contracts.types import JuryTerms, LedgerTerms, Role
from contracts.wallet import open_wallet
from murmur.identities import Identity, make_keys
from protocol.errors import ConfigError, UsageError
from protocol.keys import PeerKey
from protocol.manifest import LOCAL_CHAIN_ID

TOKEN = 10**18
SUPPLY_WEI = 100_000_000 * TOKEN
STAKE_WEI = 100 * TOKEN
SLOT_WEI = 20 * TOKEN
LEDGER_TERMS = LedgerTerms(
    min_stake=STAKE_WEI,
    run_bond=50 * TOKEN,
    proposal_bond=5 * TOKEN,
    unbonding_blocks=4000,
    dispute_blocks=4,
    force_blocks=2,
    timeout_blocks=600,
)
JURY_TERMS = JuryTerms(
    slot_stake=SLOT_WEI,
    silent_penalty=TOKEN,
    fee=TOKEN // 10,
    case_bond=10 * TOKEN,
    seats=3,
    draw_blocks=100,
    vote_blocks=120,
    reveal_blocks=60,
    appeal_blocks=6,
    unbonding_blocks=1000,
)
BLOCK_TIME_S = 0.5
GAS_COIN_WEI = 10**21
UP_FILE = "up.json"
TIERS = ({"steps": 9, "batch": 8}, {"steps": 6, "batch": 6})
"""Of three fifths and three tenths of a full unit's samples."""
CPU_SHARES = (1.0, 0.07, 0.04)
"""How much of the time honest contributors' trainers compute where there are tiers, in turn."""
DEADLINES = {
    "ready": 480,
    "commit": 30,
    "reveal": 30,
    "receipt": 10,
    "verify": 180,
    "appeal": 120,
}  # blocks of half a second


@dataclass(frozen=True)
class UpFacts:
    """What a later audit needs to find its way in a kept directory."""

    chain_id: int
    ledger: str
    token: str
    run: str
    names: dict[str, int]  # name -> registration number
    cheats: dict[str, str]  # name -> kind

    def save(self, directory: Path) -> None:
        """Write the facts beside everything else."""
        (directory / UP_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def make_directory(path: Path) -> Path:
    """Create the directory of a network, readable by its owner only.

    Raises:
        UsageError: it holds something already.
        ConfigError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        if any(path.iterdir()):
            raise UsageError(f"{path} is not empty", hint="name a new directory with --dir")
    except OSError as error:
        raise ConfigError(
            f"cannot create {path}: {error.strerror}", hint="name another with --dir"
        ) from error
    return path.resolve()


@contextmanager
def eager_mining(w3: Web3) -> Iterator[None]:
    """Mine at once while the network is set up, instead of waiting for the block time."""
    done = threading.Event()

    def mine() -> None:
        while not done.wait(0.03):
            request(w3, "evm_mine")

    thread = threading.Thread(target=mine, name="miner")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@dataclass
class Staked:
    """The participants once the ledger knows them."""

    ledger: Ledger
    keys: dict[str, PeerKey]
    wallets: dict[str, LocalAccount]
    numbers: dict[str, int]


def found_ledger(
    rpc_url: str,
    directory: Path,
    seed: int,
    identities: tuple[Identity, ...],
    late: Collection[str] = (),
) -> Staked:
    """Make keys, deploy the contracts from the coordinator's wallet, and register and stake everybody else.

    Registration numbers follow the order of the names.

    Args:
        late: names of those who get keys and tokens only, and register later.
    """
    w3 = connect(rpc_url, LOCAL_CHAIN_ID)
    keys = {identity.name: make_keys(directory, seed, identity) for identity in identities}
    wallets = {identity.name: open_wallet(directory / identity.name) for identity in identities}
    for wallet in wallets.values():
        set_coin(w3, wallet.address, GAS_COIN_WEI)
    for key in keys.values():  # jurors vote, and contributors force commitments in, by their peer keys
        set_coin(w3, key.address, GAS_COIN_WEI)
    with eager_mining(w3):
        coordinator = wallets["coordinator"]
        ledger = Ledger.deploy(
            w3,
            coordinator,
            supply=SUPPLY_WEI,
            terms=LEDGER_TERMS,
            jury=JURY_TERMS,
        )
        treasury = Sender(w3, coordinator)
        staking = [identity for identity in identities if identity.role is not None]
        with ThreadPoolExecutor(4) as pool:
            # So that anybody can open a case, and few verifiers have slots enough for a jury.
            judges = sum(one.role is Role.VERIFIER for one in staking)
            slots = -(-JURY_TERMS.seats // judges) if judges else 0
            purse = STAKE_WEI + JURY_TERMS.case_bond + slots * SLOT_WEI
            list(pool.map(lambda one: ledger.transfer(treasury, wallets[one.name].address, purse), staking))
        numbers = {
            one.name: ledger.register(Sender(w3, wallets[one.name]), one.role, keys[one.name], STAKE_WEI)
            for one in staking
            if one.role is not None and one.name not in late
        }
        for one in staking:
            if one.role is Role.VERIFIER:
                ledger.jury.join(Sender(w3, wallets[one.name]), slots)
    return Staked(ledger, keys, wallets, numbers)


def enrol(staked: Staked, identity: Identity, directory: Path) -> None:
    """Register and stake a participant that comes late, with its own wallet, and note its number where others look."""
    assert identity.role is not None, "a coordinator does not register"
    sender = Sender(staked.ledger.w3, staked.wallets[identity.name])
    number = staked.ledger.register(sender, identity.role, staked.keys[identity.name], STAKE_WEI)
    staked.numbers[identity.name] = number
    facts = json.loads((directory / UP_FILE).read_text(encoding="utf-8"))
    UpFacts(**{**facts, "names": dict(staked.numbers)}).save(directory)


def thread_env() -> dict[str, str]:
    """Return the environment that keeps each process to one thread; many share the machine."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {name: os.environ.get(name, "1") for name in names} | {"PYTHONUNBUFFERED": "1"}


def murmur_argv(*arguments: str) -> list[str]:
    """Return the command line of a `murmur` command run by this interpreter."""
    return [sys.executable, "-m", "murmur", *arguments]
