"""Recipes drawn from a distribution over trainings: one TOML file and a seed give the same recipes to everybody.

Every number comes from a hash of the distribution's name, the seed, the recipe's name and the key that is drawn. So a
recipe depends neither on how many are drawn nor on other keys. Nothing is measured: the budget is a formula
(`distribution.step_seconds`), and choices that exceed it are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, cycle, islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tomli_w
from pydantic import ValidationError

from moeload_bench.errors import RecipeError
from moeload_bench.generator.corpora import find_corpus
from moeload_bench.generator.distribution import (
    SHAPE,
    Distribution,
    PlanTable,
    ScheduleOption,
    Shapes,
    StratumTable,
    pick,
    probe_seconds,
    rounded,
    step_seconds,
)
from moeload_bench.generator.optimizer import OptimizerKind
from moeload_bench.generator.recipe import Method, Recipe
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.schema import first_problem, read_toml
from moeload_bench.traces.meta import Stratum

MOST_TURNS = 64
"""The largest sum of the weights of a stage's texts."""
MOST_CORNERS = 20_000
"""The most recipes that are made to check a distribution: one for each choice, others being the first."""
BALANCING = {
    "none": "no balancing",
    "aux_loss": "an auxiliary loss of {:g} per layer",
    "global_aux_loss": "an auxiliary loss of {:g} per layer over the micro-batches of the step so far",
    "pooled_aux_loss": "an auxiliary loss of {:g} over all layers",
    "sequence_aux_loss": "an auxiliary loss of {:g} within each sequence",
    "loss_free_bias": "a loss-free bias update of {:g}",
    "quantile_balancing": "quantile balancing",
    "quantile_histogram": "quantile balancing over the whole step",
    "hash": "hash routing",
}


@dataclass(frozen=True)
class Drawn:
    """All that was drawn for one recipe; shares are of its steps."""

    name: str
    stratum: Stratum
    method: Method
    family: str
    shape: dict[str, Any]
    steps: int
    coefficient: float
    optimizer: OptimizerKind
    lr: float
    warmup: int
    schedule: ScheduleOption
    plan: PlanTable
    event: float | None = None
    changes: tuple[float, ...] = ()
    z_loss: float = 0.0
    ramp: tuple[int, ...] = ()
    ramp_at: float = 0.0
    probe: bool = False
    minutes: float = 0.0
    """Minutes of one core that the recording takes, by the formula."""

    @property
    def sequences(self) -> int:
        """Return the sequences of a step, after the ramp."""
        return int(self.shape["tokens"] // self.shape["sequence_length"])


def load_distribution(path: Path) -> Distribution:
    """Read a distribution; raise `RecipeError` that names the field that could give an invalid recipe."""
    distribution = read_toml(Distribution, path, "distribution", RecipeError)
    try:
        _check(distribution)
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from None
    return distribution


def own_seed(path: Path) -> int:
    """Return the file's own seed, which nobody chooses: the first 8 hex digits of its SHA-256."""
    return int(bytes_sha256(path)[:8], 16)


def draw_recipes(distribution: Distribution, number: int, seed: int) -> list[Drawn]:
    """Return what is drawn for the first ``number`` recipes of a seed; `recipe_of` turns it into recipes."""
    places = _cell_places(distribution) if distribution.cells else _quota_places(distribution)
    return [_drawn(distribution, place, seed) for place in islice(places, number)]


def recipe_toml(recipe: Recipe) -> str:
    """Return a recipe as the text of a file; fields at their default are left out."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_defaults=True, exclude_none=True))


def expert_tokens(recipe: Recipe) -> float:
    """Return the tokens per expert of a step at the end, as the recipe plans them."""
    config = recipe.model.config
    experts = next(config[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if key in config)
    tokens = recipe.data.batch_sizes[-1][1] * recipe.data.sequence_length
    return float(tokens * config.get("num_experts_per_tok", 1) / experts)


class _Place(NamedTuple):
    """What is fixed of a recipe before it is drawn; all choices follow from ``key``."""

    name: str
    key: str
    stratum: Stratum
    method: Method
    families: tuple[str, ...]


def _quota_places(distribution: Distribution) -> Iterator[_Place]:
    """Yield what each draw in turn has: as many of a stratum and a method as the quotas say, spread evenly."""
    quotas = [(s, m, number) for s, methods in distribution.quotas.items() for m, number in methods.items()]
    due = [((turn + 0.5) / number, index) for index, (_, _, number) in enumerate(quotas) for turn in range(number)]
    counts: Counter[str] = Counter()
    for _, index in cycle(sorted(due)):
        stratum, method, _ = quotas[index]
        name = f"{distribution.prefix}{stratum[0]}{counts[stratum]:02d}"
        counts[stratum] += 1
        yield _Place(name, name, stratum, method, distribution.methods[method].families)


def _cell_places(distribution: Distribution) -> Iterator[_Place]:
    """Yield what each draw in turn has: the draws of a family that share a key differ in the balancing alone."""
    for turn in count():
        for cell in distribution.cells:
            for index, family in product(range(turn * cell.runs, (turn + 1) * cell.runs), cell.families):
                key = f"{distribution.prefix}{family}-{index}".replace("_", "-")
                for method in cell.methods:
                    yield _Place(f"{key}.{_word(method)}", key, cell.stratum, method, (family,))


def shared_name(recipe: Recipe) -> str:
    """Return the name that recipes share which differ in the balancing alone: `new-dots1-0` of `new-dots1-0.aux-loss`.

    Any other recipe has its own.
    """
    return recipe.name.removesuffix(f".{_word(recipe.balancing.method)}")


def _word(method: Method) -> str:
    """Return a method as the name of a recipe has it."""
    return method.replace("_", "-")


def _drawn(distribution: Distribution, place: _Place, seed: int) -> Drawn:
    name, stratum, method = place.name, place.stratum, place.method

    def choose(options: Sequence[Any], what: str) -> Any:
        if not options:
            raise RecipeError(f"{distribution.name}: {name}: no {what} keeps the limits of the {stratum} stratum")
        return pick(options, f"{key}/{what}")

    key = f"{distribution.name}/{seed}/{place.key}"
    table, training, how = distribution.strata[stratum], distribution.training, distribution.methods[method]
    family = choose(place.families, "family")
    schedule = choose(distribution.schedules, "schedule")
    shape = Shapes(distribution, table, distribution.families[family]).draw(key)
    probe = shape.pop("probed")
    optimizer = choose(how.optimizers or tuple(training.rates), "optimizer")
    ramp = choose([ramp for ramp in training.ramps if _ramp_fits(table, shape, ramp)], "ramp")
    tokens, turns = shape["tokens"], _turns(shape, ramp)
    plan = choose([p for p in distribution.plans if _texts_last(distribution, table, tokens, turns, p)], "plan")
    drawn = Drawn(
        name=name,
        stratum=stratum,
        method=method,
        family=family,
        shape=shape,
        steps=min(table.steps),
        coefficient=choose(how.coefficient, "coefficient"),
        optimizer=optimizer,
        lr=choose(training.rates[optimizer], "lr"),
        warmup=choose(training.warmup, "warmup"),
        schedule=schedule,
        plan=plan,
        event=choose(schedule.at, "event") if schedule.at else None,
        changes=choose(plan.at, "changes"),
        z_loss=choose(how.z_loss, "z_loss"),
        ramp=ramp,
        ramp_at=choose(training.ramp_at, "ramp_at"),
        probe=probe,
    )
    steps = choose([steps for steps in table.steps if _minutes(distribution, drawn, steps) <= table.minutes], "steps")
    return replace(drawn, steps=steps, minutes=_minutes(distribution, drawn, steps))


def _ramp_fits(table: StratumTable, shape: dict[str, Any], ramp: tuple[int, ...]) -> bool:
    """Return whether the smaller batches keep the limits of the stratum too."""
    sequences = shape["tokens"] // shape["sequence_length"]
    for divisor in ramp:
        tokens, rest = divmod(shape["tokens"], divisor)
        if rest or sequences % (divisor * shape["micro_batches"]) or sequences < divisor * table.sequences_least:
            return False
        if tokens < min(table.tokens) or tokens * shape["top_k"] < table.per_expert_least * shape["experts"]:
            return False
    return True


def _turns(shape: dict[str, Any], ramp: tuple[int, ...]) -> int:
    """Return the sum of the weights of a stage's texts; each gets an even number of a step's sequences."""
    pairs = shape["tokens"] // shape["sequence_length"] // max((2, *(2 * divisor for divisor in ramp)))
    return next(turns for turns in range(min(MOST_TURNS, pairs), 0, -1) if pairs % turns == 0)


def _texts_last(distribution: Distribution, table: StratumTable, tokens: int, turns: int, plan: PlanTable) -> bool:
    """Return whether texts are long enough, and whether every step has sequences of each."""
    counted = tokens + (0 if table.probe is None else table.probe.tokens)
    for mix in plan.mixes:
        texts = distribution.mixes[mix]
        if len(texts) > turns:
            return False
        for text, weight in zip(texts, _weights(texts, turns), strict=True):
            if counted * weight > turns * _tokens(distribution, text):
                return False
    every = {text for mix in plan.mixes for text in distribution.mixes[mix]}
    return sum(_tokens(distribution, text) for text in every) >= table.epoch_steps * tokens


def _tokens(distribution: Distribution, text: str) -> float:
    return find_corpus(text).text_bytes / distribution.bytes_per_token


@lru_cache(maxsize=4096)
def _weights(texts: tuple[str, ...], turns: int) -> tuple[int, ...]:
    """Return whole numbers that sum to ``turns``, by the size of the texts and at least 1."""
    weights = [1] * len(texts)
    for _ in range(turns - len(texts)):
        shares = [find_corpus(text).text_bytes / weight for text, weight in zip(texts, weights, strict=True)]
        weights[shares.index(max(shares))] += 1
    return tuple(weights)


def _minutes(distribution: Distribution, drawn: Drawn, steps: int) -> float:
    """Return the minutes of one core that ``steps`` steps take."""
    family, shape = distribution.families[drawn.family], drawn.shape
    seconds = 0.0
    for share, divisor in _batches(drawn):
        smaller = {**shape, "tokens": shape["tokens"] // divisor}
        seconds += share * steps * float(step_seconds(distribution, family, smaller))
    probe = distribution.strata[drawn.stratum].probe
    if drawn.probe and probe is not None:
        seconds += steps / probe.every * float(probe_seconds(distribution, family, shape, probe.tokens))
    return seconds / 60


def _batches(drawn: Drawn) -> list[tuple[float, int]]:
    """Return (share of the steps, by how much the batch is divided) of each size."""
    ramp = [(drawn.ramp_at, divisor) for divisor in drawn.ramp]
    return [*ramp, (1 - len(ramp) * drawn.ramp_at, 1)]


def recipe_of(distribution: Distribution, drawn: Drawn) -> Recipe:
    """Return the recipe of what was drawn; raise `RecipeError` if it is invalid."""
    try:
        return _recipe_of(distribution, drawn)
    except ValidationError as error:
        raise RecipeError(f"{distribution.name}: {drawn.name}: {first_problem(error, 'recipe')}") from None


def _recipe_of(distribution: Distribution, drawn: Drawn) -> Recipe:
    shape, table = drawn.shape, distribution.strata[drawn.stratum]
    data = {
        "sequence_length": shape["sequence_length"],
        "sequences": drawn.sequences // (drawn.ramp[0] if drawn.ramp else 1),
        "micro_batches": shape["micro_batches"],
        "vocabulary": distribution.vocabulary,
        "tokenizer_sources": distribution.tokenizer_sources,
        "stages": [
            {"start": start, **_mix(distribution, mix, _turns(drawn.shape, drawn.ramp))}
            for start, mix in zip(_starts(drawn), drawn.plan.mixes, strict=True)
        ],
        "ramp": _ramp(drawn) or None,
    }
    return Recipe.model_validate(
        {
            "name": drawn.name,
            "version": distribution.version,
            "about": _about(distribution, drawn),
            "steps": drawn.steps,
            "model": {"family": drawn.family, "config": _config(distribution, drawn)},
            "balancing": {
                "method": drawn.method,
                "coefficient": drawn.coefficient,
                "z_loss": drawn.z_loss or None,
            },
            "data": data,
            "optimizer": {"kind": drawn.optimizer, "lr": drawn.lr},
            "schedule": drawn.schedule.table(drawn.event, drawn.steps, drawn.warmup),
            "probe": table.probe if drawn.probe else None,
        }
    )


def _starts(drawn: Drawn) -> list[int]:
    return [0, *(rounded(share * drawn.steps) for share in drawn.changes)]


def _ramp(drawn: Drawn) -> list[dict[str, int]]:
    return [
        {"start": rounded((stage + 1) * drawn.ramp_at * drawn.steps), "sequences": drawn.sequences // divisor}
        for stage, divisor in enumerate((*drawn.ramp[1:], 1) if drawn.ramp else ())
    ]


def _mix(distribution: Distribution, mix: str, turns: int) -> dict[str, Any]:
    texts = distribution.mixes[mix]
    weights = _weights(texts, turns)
    return {"sources": texts, "weights": weights if len(set(weights)) > 1 else None}


def _config(distribution: Distribution, drawn: Drawn) -> dict[str, Any]:
    """Return the family's configuration, with the drawn sizes in place of their words."""
    family, shape = distribution.families[drawn.family], drawn.shape
    width = shape["width"]
    sizes = {
        **{name: shape[name] for name in ("width", "layers", "experts", "top_k", "sequence_length")},
        "inner": int(shape["inner"] * width),
        "dense": 2 * width,
        "half": width // 2,
        "heads": width // distribution.head_dim,
        "head_dim": distribution.head_dim,
    }
    config = {key: sizes.get(value, value) if isinstance(value, str) else value for key, value in family.config.items()}
    return config | {
        "max_position_embeddings": shape["sequence_length"],
        "tie_word_embeddings": True,
        "attn_implementation": family.attention,
        "experts_implementation": "grouped_mm",
    }


def _about(distribution: Distribution, drawn: Drawn) -> str:
    """Describe the recipe in words."""
    shape, probe = drawn.shape, distribution.strata[drawn.stratum].probe
    per_expert = shape["tokens"] * shape["top_k"] / shape["experts"]
    in_parts = f" in {shape['micro_batches']} micro-batches" if shape["micro_batches"] > 1 else ""
    schedule = drawn.schedule.kind.replace("_", " ") + (" from weights" if drawn.schedule.restart_from_weights else "")
    parts = [
        f"Drawn from {distribution.name}, {drawn.stratum} batch: {drawn.family} of width {shape['width']}, "
        f"{shape['layers']} layers of {shape['experts']} experts, top-{shape['top_k']}",
        BALANCING[drawn.method].format(drawn.coefficient) + (f", z-loss of {drawn.z_loss:g}" if drawn.z_loss else ""),
        f"{drawn.sequences:,} sequences and {shape['tokens']:,} tokens a step{in_parts}, {per_expert:,.0f} per expert"
        + (f", beginning at 1/{drawn.ramp[0]}" if drawn.ramp else ""),
        "texts: "
        + ", ".join(
            f"{mix} from step {start:,}" if start else mix
            for start, mix in zip(_starts(drawn), drawn.plan.mixes, strict=True)
        ),
        ("" if drawn.optimizer == "AdamW" else f"{drawn.optimizer}, ")
        + f"learning rate {drawn.lr:g}, {schedule}"
        + ("" if drawn.event is None else f" at step {rounded(drawn.event * drawn.steps):,}"),
    ]
    if drawn.probe and probe is not None:
        parts.append(f"a probe of {probe.tokens:,} tokens every {probe.every} steps")
    return "; ".join(parts) + "."


def _check(distribution: Distribution) -> None:
    """Raise `ValueError` that names a field by which a drawn recipe could be invalid or missing."""
    for stratum in distribution.drawn_strata:
        _check_limits(distribution, stratum)
        for number, (field, drawn) in enumerate(_corners(distribution, stratum)):
            if number == MOST_CORNERS:
                raise ValueError(f"more than {MOST_CORNERS} combinations of choices to check")
            try:
                _recipe_of(distribution, drawn)
            except ValidationError as error:
                raise ValueError(f"{field}: {first_problem(error, 'recipe')}") from None


def _check_limits(distribution: Distribution, stratum: Stratum) -> None:
    """Raise unless every family has a shape within its limits, every choice is in a shape, every shape has texts."""
    table, where = distribution.strata[stratum], f"strata.{stratum}"
    reached: dict[str, set[Any]] = {key: set() for key in SHAPE}
    least, batches = np.inf, set()
    for family, shapes in _shapes(distribution, stratum).items():
        if not len(shapes["tokens"]):
            raise ValueError(
                f"{where}.minutes: no {family} recipe keeps the limits of the stratum within {table.minutes:g}"
            )
        least = min(least, step_seconds(distribution, distribution.families[family], shapes).min())
        for key in SHAPE:
            reached[key].update(shapes[key].tolist())
        batches |= set(zip(shapes["tokens"].tolist(), shapes["sequence_length"].tolist(), strict=True))
    for key in SHAPE:
        for value in getattr(table, key):
            if value not in reached[key]:
                raise ValueError(f"{where}.{key}: no recipe with {value} keeps the limits within {table.minutes:g} min")
    if max(table.steps) * least > 60 * table.minutes:
        raise ValueError(f"{where}.steps: no recipe of {max(table.steps)} steps takes at most {table.minutes:g} min")
    for tokens, length in sorted(batches):
        turns = max(2, table.sequences_least) // 2
        if not any(_texts_last(distribution, table, tokens, turns, plan) for plan in distribution.plans):
            raise ValueError(f"plans: none has text enough for {tokens} tokens a step in sequences of {length}")


def _shapes(distribution: Distribution, stratum: Stratum) -> dict[str, dict[str, Any]]:
    """Return the shapes of a stratum for each family that can be drawn in it."""
    families = (name for names in distribution.families_by_method(stratum).values() for name in names)
    table = distribution.strata[stratum]
    return {name: Shapes(distribution, table, distribution.families[name]).of for name in dict.fromkeys(families)}


def _corners(distribution: Distribution, stratum: Stratum) -> Iterator[tuple[str, Drawn]]:
    """Yield (field, what is drawn with one choice of it) for all choices of a stratum, others being the first."""
    table, training, shapes = distribution.strata[stratum], distribution.training, _shapes(distribution, stratum)
    for method, families in distribution.families_by_method(stratum).items():
        how = distribution.methods[method]
        for family in families:
            shape = {key: values[0].item() for key, values in shapes[family].items()}
            first = Drawn(
                name=f"{distribution.prefix}{stratum[0]}00",
                stratum=stratum,
                method=method,
                family=family,
                shape=shape,
                steps=min(table.steps),
                coefficient=how.coefficient[0],
                optimizer=next(iter(training.rates)),
                lr=next(iter(training.rates.values()))[0],
                warmup=max(training.warmup),
                schedule=distribution.schedules[0],
                plan=PlanTable(mixes=(min(distribution.mixes),)),
                probe=table.probe is not None,
            )
            for coefficient, z_loss in product(how.coefficient, how.z_loss):
                yield f"methods.{method}", replace(first, coefficient=coefficient, z_loss=z_loss)
            for width, inner in product(table.width, table.inner):
                yield f"families.{family}.config", replace(first, shape={**shape, "width": width, "inner": inner})
    for steps in (min(table.steps), max(table.steps)):
        run = replace(first, steps=steps)
        for index, schedule in enumerate(distribution.schedules):
            for event in schedule.at or [None]:
                yield f"schedules.{index}", replace(run, schedule=schedule, event=event)
        for index, plan in enumerate(distribution.plans):
            for changes in plan.at:
                yield f"plans.{index}", replace(run, plan=plan, changes=changes)
        for ramp, share in product(training.ramps, training.ramp_at):
            longer = {**shape, "tokens": shape["tokens"] * max((1, *ramp))}
            yield "training.ramps", replace(run, shape=longer, ramp=ramp, ramp_at=share)
