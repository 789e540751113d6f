"""A real local chain with a ledger for all contract tests, put back to its start after each of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak
from web3 import Web3

from contracts.anvil import request, rpc_url, set_coin, start_anvil, wait_ready
from contracts.client import Ledger
from contracts.keystore import create_keystore
from contracts.sender import Sender
from contracts.types import JuryTerms, Ladder, LedgerTerms, Role
from contracts.wallet import save_unattended_wallet
from murmur.ports import free_port
from protocol.keys import PeerKey
from tests.contracts.shell import Shell

TOKEN = 10**18
MIN_STAKE = 100 * TOKEN
UNBONDING_BLOCKS = 200
DISPUTE_BLOCKS = 4
FORCE_BLOCKS = 2
TERMS = LedgerTerms(
    min_stake=MIN_STAKE,
    run_bond=50 * TOKEN,
    proposal_bond=5 * TOKEN,
    unbonding_blocks=UNBONDING_BLOCKS,
    dispute_blocks=DISPUTE_BLOCKS,
    force_blocks=FORCE_BLOCKS,
    timeout_blocks=30,
)
JURY = JuryTerms(
    slot_stake=20 * TOKEN,
    silent_penalty=TOKEN,
    fee=TOKEN // 10,
    case_bond=10 * TOKEN,
    seats=3,
    draw_blocks=12,
    vote_blocks=12,
    reveal_blocks=10,
    appeal_blocks=5,
    unbonding_blocks=10,
)
LADDER = Ladder(fault_bps=10_000, equivocation_bps=1000, window_blocks=20)
RUN = "ab" * 32


@dataclass(frozen=True)
class LocalChain:
    """The chain that the session shares; it makes a block for every transaction."""

    w3: Web3
    url: str

    def mine(self, blocks: int) -> None:
        request(self.w3, "anvil_mine", hex(blocks))


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalChain]:
    port = free_port()
    log: Path = tmp_path_factory.mktemp("anvil") / "anvil.log"
    process = start_anvil(port, None, None, log_path=log)
    try:
        yield LocalChain(wait_ready(process, port, log_path=log), rpc_url(port))
    finally:
        process.terminate()
        process.wait()


@dataclass
class Network:
    """A ledger that nobody has used; `person` makes wallets with coin and tokens, always the same ones."""

    chain: LocalChain
    ledger: Ledger
    treasury: Sender
    people: dict[str, Sender] = field(default_factory=dict)

    def person(self, name: str) -> Sender:
        if name not in self.people:
            account = Account.from_key(keccak(text=f"{self.ledger.address} {name}"))
            set_coin(self.chain.w3, account.address, 100 * TOKEN)
            self.people[name] = Sender(self.chain.w3, account)
            self.ledger.transfer(self.treasury, account.address, 10_000 * TOKEN)
        return self.people[name]

    def peer(self, name: str) -> PeerKey:
        return PeerKey(keccak(text=f"peer of {name}"))

    def register(self, name: str, role: Role = Role.CONTRIBUTOR, amount: int = MIN_STAKE) -> int:
        return self.ledger.register(self.person(name), role, self.peer(name), amount)

    def open_run(self, funding: int = 1000 * TOKEN, run: str = RUN) -> Sender:
        coordinator = self.person("coordinator")
        self.ledger.create_run(coordinator, run, self.peer("coordinator").address, LADDER, funding)
        self.ledger.open_run(coordinator, run)
        return coordinator

    def play_round(self, round_: int, run: str = RUN) -> None:
        coordinator = self.person("coordinator")
        self.ledger.post_commitments(coordinator, run, round_, bytes([1]) * 32, 2)
        self.chain.mine(FORCE_BLOCKS + 1)
        self.ledger.anchor_record(coordinator, run, round_, bytes([2]) * 32)


@pytest.fixture
def cheap_wallets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the work factor of the wallets that a test makes."""

    def create(path: Path, key: bytes, password: str, **_: int) -> LocalAccount:
        return create_keystore(path, key, password, scrypt_n=2)

    monkeypatch.setattr("contracts.wallet.create_keystore", create)


@pytest.fixture(scope="session")
def deployed(chain: LocalChain) -> tuple[Ledger, LocalAccount]:
    """Deploy what every test finds untouched, and return it with its deployer."""
    deployer = Account.from_key(keccak(text="deployer"))
    set_coin(chain.w3, deployer.address, 100 * TOKEN)
    ledger = Ledger.deploy(chain.w3, deployer, supply=10**9 * TOKEN, terms=TERMS, jury=JURY)
    return ledger, deployer


@pytest.fixture
def network(chain: LocalChain, deployed: tuple[Ledger, LocalAccount]) -> Iterator[Network]:
    ledger, deployer = deployed
    before = request(chain.w3, "evm_snapshot")
    chain.mine(1)  # what a snapshot is put back to is no block that a reorganisation can start from
    yield Network(chain, ledger, Sender(chain.w3, deployer))
    request(chain.w3, "evm_revert", before)


@pytest.fixture
def shell(network: Network, tmp_path: Path) -> Shell:
    secret = keccak(text=f"wallet of {network.ledger.address}")
    home = tmp_path / "home"
    account = save_unattended_wallet(home, secret, scrypt_n=2)
    set_coin(network.chain.w3, account.address, TOKEN)
    network.ledger.transfer(network.treasury, account.address, 1000 * TOKEN)
    return Shell(network, home, account.address)
