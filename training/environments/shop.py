"""`shop`: buy so many of one of two goods, as a clerk would: look up, put into the cart, read the total, pay.

    need 4 d|a      the order: four of d or of a, whichever is cheaper and in stock
    ?a              look up           -> p7 s4   price 7, stock 4
    +d              into the cart     -> t20     the total, or `no` if the stock does not suffice
    $20             pay, which ends the episode
    anything else   -> err, and a turn is gone

Shortcuts do not pay. Nothing can be refused: at least one good is always in stock, since a way out that is rewarded
is what a policy drifts to. A payment that is not the total, or for an empty cart, earns nothing for honesty. The good
that was bought counts as chosen only if both prices had been looked up before: a lucky guess is no comparison.
The total is shown rather than computed, since arithmetic is another skill.
"""

import re
from dataclasses import dataclass
from typing import Final

from training.environments.definition import Definition, config_hash
from training.environments.protocol import (
    Component,
    ComponentSpec,
    EnvSpec,
    Info,
    Observation,
    Step,
    TaskRandom,
    as_text,
    task_random,
    total,
)

VERSION: Final = "1"
STOCKS: Final = (0, 1, 2, 3, 4, 5, 6, 9)
_PAYMENT = re.compile(r"\$([0-9]{1,4})")
_ORDER = re.compile(r"need ([0-9]) ([a-z])\|([a-z])\n")
_PRICE = re.compile(r"p([0-9]) s([0-9])\n")
_TOTAL = re.compile(r"t([0-9]+)\n")


@dataclass(frozen=True)
class ShopConfig:
    """Say how large orders are, how many turns they may take, and whether a guess counts as a choice."""

    turns: int = 6
    goods: str = "abcdef"
    most: int = 4
    compare: bool = True

    def __post_init__(self) -> None:
        if not 4 <= self.turns <= 32:
            raise ValueError("turns are from 4, what an order takes, to 32")
        if not re.fullmatch(r"[a-z]{2,26}", self.goods) or len(set(self.goods)) != len(self.goods):
            raise ValueError("goods are from 2 to 26 different small letters")
        if not 1 <= self.most <= 9:
            raise ValueError("most is from 1 to 9")


class Shop:
    """Serve one order."""

    def __init__(self, config: ShopConfig) -> None:
        self._config = config
        self._hash = config_hash(config)
        self.spec = EnvSpec(
            "shop",
            VERSION,
            max_turns=config.turns,
            max_tokens=6 * config.turns,
            components=(
                ComponentSpec("paid", weight=0.4),
                ComponentSpec("cheapest", weight=0.2),
                ComponentSpec("served", weight=0.4),
            ),
            max_action_bytes=2048,
        )
        self.player = 0
        self._clear()

    def _clear(self) -> None:
        self._quantity = 0
        self._prices: dict[str, int] = {}
        self._stocks: dict[str, int] = {}
        self._best = self._cart = ""
        self._seen: set[str] = set()
        self._paid: int | None = None
        self._taken = 0

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Draw the order, two goods, their different prices and stocks, of which at least one suffices."""
        self._clear()
        random = task_random(self.spec, self._hash, seed)
        self._quantity = random.between(1, self._config.most)
        goods = random.shuffled(self._config.goods)[:2]
        prices = random.shuffled(range(1, 10))[:2]
        self._prices = dict(zip(goods, prices, strict=True))
        while not self._best:
            self._stocks = {good: random.choice(STOCKS) for good in goods}
            able = [good for good in goods if self._stocks[good] >= self._quantity]
            self._best = min(able, key=self._prices.__getitem__, default="")
        return f"need {self._quantity} {goods[0]}|{goods[1]}\n", self._info()

    def _info(self) -> Info:
        goods = tuple(self._prices)
        pay = (f"${self._total}",) if self._cart else ()
        return {"legal": tuple(f"?{one}" for one in goods) + tuple(f"+{one}" for one in goods) + pay}

    @property
    def _total(self) -> int:
        return self._quantity * self._prices[self._cart] if self._cart else 0

    def step(self, action: str) -> Step:
        """Look up, add or pay."""
        self._taken += 1
        if payment := _PAYMENT.fullmatch(action):
            self._paid = int(payment[1])
            return "", total(self.spec, self.components()), True, False, {}
        verb, good = action[:1], action[1:]
        said = "err\n"
        if good in self._prices and verb == "?":
            self._seen.add(good)
            said = f"p{self._prices[good]} s{self._stocks[good]}\n"
        elif good in self._prices and verb == "+":
            said = "no\n"
            if self._stocks[good] >= self._quantity:
                self._cart = good
                said = f"t{self._total}\n"
        return said, 0.0, False, self._taken >= self._config.turns, self._info()

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return `paid` (exactly the cart's total), `cheapest` (the better good, by comparison), `served` (both)."""
        bought = self._paid is not None and bool(self._cart)
        paid = bought and self._paid == self._total
        compared = not self._config.compare or self._seen == set(self._prices)
        cheapest = bought and compared and self._cart == self._best
        values = (("paid", paid), ("cheapest", cheapest), ("served", paid and cheapest))
        return tuple(Component(name, float(value)) for name, value in values)


class Clerk:
    """Serve an order from what the shop says; a sloppy clerk looks up little, adds anything and pays at random."""

    def __init__(self, random: TaskRandom, good: bool) -> None:
        self._random = random
        self._good = good
        self._quantity = 0
        self._look: list[str] = []
        self._asked = ""
        self._known: dict[str, tuple[int, int]] = {}
        self._add: list[str] = []

    def act(self, observation: Observation, info: Info) -> str:
        """Return what comes next."""
        text = as_text(observation)
        if order := _ORDER.fullmatch(text):
            self._quantity = int(order[1])
            goods = self._random.shuffled([order[2], order[3]])
            self._look = [one for one in goods if self._good or self._random.chance(0.7)]
            self._add = self._random.shuffled(goods)
        elif price := _PRICE.fullmatch(text):
            self._known[self._asked] = int(price[1]), int(price[2])
        elif found := _TOTAL.fullmatch(text):
            honest = self._good or self._random.chance(0.5)
            return f"${found[1]}" if honest else f"${self._random.between(1, 36)}"
        if self._look:
            self._asked = self._look.pop()
            return f"?{self._asked}"
        if self._good:
            able = [one for one, (_, stock) in self._known.items() if stock >= self._quantity]
            return f"+{min(able, key=lambda one: self._known[one][0])}"
        return f"+{self._add.pop()}" if self._add else f"${self._random.between(1, 36)}"


SHOP: Final = Definition(
    "shop",
    VERSION,
    "serve an order: look up, cart, total, payment (six turns)",
    ShopConfig,
    Shop,
    Clerk,
    good_share=0.25,
)
