"""What a contributor can claim that it did not compute: copied and invented updates, forged residuals and bytes."""

from abc import ABC, abstractmethod

import numpy as np
import trio

from node.events import Train
from node.honesty import HonestSteps, Honesty, Workshop
from node.unit import Files, Unit, Work
from protocol.canonical import tagged_digest
from protocol.messages import Opening, Reveal
from protocol.published import max_published_bytes, read_update
from protocol.tensors import Floats, moment_layout, pack, parameter_layout, unpack
from protocol.update import encode, symbols_digest
from training.assignment import assignment, assignment_digest
from training.codec import compress, decode_dense
from training.outer import load_parameters, outer_layout
from training.second_moments import with_slice

SWOLLEN = 10.0  # times the residual that is left
FORGES_EVERY = 4  # units
LOUD = 2.0**20  # times the second moment that is said
PERTURBATION = 0.1  # of each value


class DroppedResidual(HonestSteps):
    """Carry a residual in, and leave it out."""

    def residual_before(self, residual: Floats | None) -> Floats | None:
        """Return nothing."""
        return None


class ForgedResidual(HonestSteps):
    """Swell the residual, so that the next update is larger than what was trained."""

    def __init__(self, every: int = 1) -> None:
        """Forge in one of so many units; between them the forged residual is carried on honestly."""
        self._every = every
        self._units = 0

    def residual_after(self, residual: Floats) -> Floats:
        """Return another residual than the symbols leave."""
        self._units += 1
        forges = (self._units - 1) % self._every == 0
        return np.asarray(residual * np.float32(SWOLLEN)) if forges else residual


class ForgedUpdate(HonestSteps):
    """Commit to an update that leads away from where the steps went."""

    def change(self, change: Floats) -> Floats:
        """Return the opposite."""
        return -change


class ForgedMoments(HonestSteps):
    """Say second moments that bring everybody's steps on their entries to rest."""

    def second_moments(self, second: Floats) -> Floats:
        """Return far larger ones."""
        return np.asarray(second * np.float32(LOUD))


class ForgedBytes(Honesty):
    """Open the public parameters where a forged state was committed; its own trainer skips steps."""

    def __init__(self, trainer_argument: str) -> None:
        self.trainer_arguments = (trainer_argument,)

    async def opening(self, shop: Workshop, unit: Unit, opening: Opening) -> Opening | None:
        """Name another address than the committed one."""
        return opening.model_copy(update={"end_parameters": unit.commitment.parameters})


class Copycat(Honesty):
    """Commit to what another peer revealed in the round before, and train nothing.

    Round 0 has nothing to copy and is trained. States are invented, so that an opening finds no bytes for them.
    """

    async def work(self, shop: Workshop, job: Train) -> Work:
        """Return a unit around somebody else's update, or none while there is nothing to copy."""
        if job.round == 0:
            return await shop.train(job)
        victims = _others(shop, job.round - 1)
        if not victims:
            await trio.sleep_forever()
        return self.copy(shop, job, victims[0])

    def copy(self, shop: Workshop, job: Train, victim: Reveal) -> Work:
        """Return the unit that claims a victim's update."""

        def invented(index: int, what: int) -> str:
            return tagged_digest("murmur/copycat", shop.run, job.round, shop.number, index, what)

        segments = [
            Files(parameters=invented(index, 0), moments=invented(index, 1))
            for index in range(shop.manifest.segments + 1)
        ]
        return Work(
            assignment=assignment_digest(assignment(shop.manifest, job.beacon, job.round, shop.number)),
            segments=tuple(segments),
            moments=segments[-1].moments,
            residual=invented(0, 2),
            symbols=victim.symbols,
            blob=victim.blob,
            blob_bytes=victim.blob_bytes,
            cpu_s=victim.train_cpu_s,
            loss=0.0,
        )

    async def opening(self, shop: Workshop, unit: Unit, opening: Opening) -> Opening | None:
        """Open a copied unit with the bytes there are: the public parameters, and moments of zero."""
        if unit.round == 0:
            return opening
        layout = moment_layout(shop.manifest.model)
        zeros = shop.store.put(pack(layout, np.zeros(layout.size, np.float32), 0))
        places = ("start", "end", "final")
        parameters = {f"{place}_parameters": unit.commitment.parameters for place in places}
        return opening.model_copy(update=parameters | {f"{place}_moments": zeros for place in places})


class Invented(Honesty, ABC):
    """Claim an update that was not trained, on states that lead to it in a straight line.

    Everything that is hashed is there and fits: the update follows from the last state, and every file can be
    opened. Only the steps between the states were never taken. Round 0 has no update to start from and is trained.
    """

    async def work(self, shop: Workshop, job: Train) -> Work:
        """Return a unit around an invented update, or none while there is nothing to start from."""
        if job.round == 0:
            return await shop.train(job)
        victims = [one for one in _others(shop, job.round - 1) if shop.store.has(one.blob)]
        if not victims:
            await trio.sleep_forever()
        return self.invent(shop, job, victims[0])

    @abstractmethod
    def pretend(self, update: Floats, generator: np.random.Generator) -> Floats:
        """Return the change float32[P] to claim, given another peer's."""

    def invent(self, shop: Workshop, job: Train, victim: Reveal) -> Work:
        """Make a unit that claims a change of the victim's size."""
        manifest, store = shop.manifest, shop.store
        layout, moments_of = parameter_layout(manifest.model), moment_layout(manifest.model)
        shown = read_update(manifest, store.get(victim.blob, max_size=max_published_bytes(manifest)))
        seed = int(tagged_digest("murmur/invented", shop.run, job.round, shop.number)[:16], 16)
        change = self.pretend(decode_dense(shown, layout.size), np.random.default_rng(seed))

        file = store.get(job.parameters, max_size=outer_layout(manifest).file_bytes)
        public = load_parameters(manifest, file).parameters
        moments, steps = np.zeros(moments_of.size, np.float32), 0
        if job.moments is not None:
            moments, steps = unpack(moments_of, store.get(job.moments, max_size=moments_of.file_bytes))
        residual = None
        if job.residual is not None:
            residual, _ = unpack(layout, store.get(job.residual, max_size=layout.file_bytes))
        segments, final = [], public
        for index in range(manifest.segments + 1):
            final = np.asarray(public - change * np.float32(index / manifest.segments), np.float32)
            count = steps + index * manifest.verification.segment_steps
            segments.append(
                Files(
                    parameters=store.put(pack(layout, final)),
                    moments=store.put(pack(moments_of, moments, count)),
                )
            )
        symbols, rest = compress(manifest.codec, public - final, residual)
        second = moments[layout.size :]
        symbols = with_slice(manifest, symbols, second, job.beacon, job.round, shop.number)
        container = encode(symbols)
        return Work(
            assignment=assignment_digest(assignment(manifest, job.beacon, job.round, shop.number)),
            segments=tuple(segments),
            moments=segments[-1].moments,
            residual=store.put(pack(layout, rest)),
            symbols=symbols_digest(symbols),
            blob=store.put(container),
            blob_bytes=len(container),
            cpu_s=victim.train_cpu_s,
            loss=0.0,
        )


class PerturbedCopy(Invented):
    """Claim another peer's update with some noise, so that its symbols are not the same."""

    def pretend(self, update: Floats, generator: np.random.Generator) -> Floats:
        """Change every value by about a tenth."""
        noise = generator.normal(1.0, PERTURBATION, update.size)
        return np.asarray(update * noise, np.float32)


class RandomUpdate(Invented):
    """Claim noise of the norm that updates have."""

    def pretend(self, update: Floats, generator: np.random.Generator) -> Floats:
        """Return a random direction."""
        noise = generator.normal(0.0, 1.0, update.size)
        return np.asarray(noise * (np.linalg.norm(update) / np.linalg.norm(noise)), np.float32)


def _others(shop: Workshop, round_: int) -> list[Reveal]:
    reveals = shop.pool.reveals(round_)
    return [reveals[number].body for number in sorted(reveals) if number != shop.number]
