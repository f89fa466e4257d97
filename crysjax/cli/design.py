"""`crysjax design`: from a target in YAML to ranked, relaxed, validated crystals with a ledger and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from crysjax.terminal import Stopped, bar, printable, say


def _keys(asked: bool) -> None:
    if asked:
        from crysjax.campaign import keys

        say(keys.table())
        raise typer.Exit


def design(
    config: Path = typer.Argument(help="The plan, such as configs/quickstart.yaml."),
    out: Path = typer.Option(..., help="Folder for everything that comes out."),
    seed: int | None = typer.Option(None, help="Random seed, instead of the plan's."),
    resume: bool = typer.Option(True, help="Resume an interrupted run in --out; --no-resume starts over."),
    keys: bool = typer.Option(
        False, "--keys", callback=_keys, is_eager=True, help="Show all keys of a plan with default, type and meaning."
    ),
) -> None:
    """Design crystals: rounds of sample, guide, screen, score, select, relax, validate, feed back."""
    from crysjax.campaign import outputs, round
    from crysjax.campaign.assemble import assemble
    from crysjax.campaign.plan import read_plan

    plan = read_plan(config, seed=seed)
    try:
        tools, about = assemble(plan)
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from None
    try:
        with bar("design") as advance:
            outcomes = round.run(
                plan, tools, out, resume=resume, say=lambda text: say(f"crysjax: {text}", err=True),
                progress=lambda number, what, done, total: advance(
                    done, total, part=f"round {number + 1}/{plan.rounds} {what}"
                ),
            )  # fmt: skip
        summary = outputs.write(out, plan, tools.goals, outcomes, **about)
    except KeyboardInterrupt:
        raise Stopped(_kept(out, plan.rounds, resume)) from None
    _say(out, summary)


def _kept(out: Path, rounds: int, resume: bool) -> str:
    from crysjax.campaign import outcomes, store

    done = store.load_state(out / outcomes.STATE)[1]["rounds"] if (out / outcomes.STATE).exists() else 0
    if not done:
        return f"no round in {out} was finished yet; the same command begins again"
    command = "the same command" if resume else "the same command without --no-resume"
    return f"{done} of {rounds} rounds in {out} are kept; {command} goes on from there"


def _say(out: Path, summary: dict[str, Any]) -> None:
    stages = ", ".join(f"{name} {count['passed']}" for name, count in summary["stages"].items())
    say(stages)
    for rank, best in enumerate(summary["best"], start=1):
        say(f"  {rank}. {best['formula']:16s}{printable(best['id']):10s}objective {best['objective']:.3f}")
    lost = summary["interrupted"]
    if lost["rounds"]:
        wasted = f"{lost['sampled']} samples and {lost['relaxations']} relaxations were made again"
        say(f"rounds interrupted before their end: {lost['rounds']}; {wasted}, beside those of the budget")
    if not summary["candidates"]:
        say(summary["nothing"])
    if summary["unspent"]:
        say(summary["unspent"])
    if summary["novelty"]:
        say(_outside(summary["novelty"]))
    say(f"{_hits(summary['hits'])}; {summary['seconds']:.0f} s; {out}/report.html")


def _outside(said: dict[str, Any]) -> str:
    """How many candidates lie outside the heads' training data, in a line."""
    scored, validated = said["scored"], said["validated"]
    return (
        f"outside the training data of the heads (novelty above {said['limit']:.2f}): {validated['outside']} of "
        f"{validated['crystals']} validated candidates, {scored['outside']} of {scored['crystals']} scored ones"
    )


def _hits(said: dict[str, Any]) -> str:
    """The number of hits beside what chance gives, in a line."""
    from crysjax.evaluation.hits import drawn, told

    spent = said["validations"]
    if said["found"] is None:
        return f"{spent} validations; the target has no window, so no hits are counted"
    found, chance = told(said["found"]), said["at_random_among_screened"]
    among = f"screened candidates, which were {drawn(said['guidance_of_screened'])}"
    at_random = f"; {told(chance)} if they had been picked at random from the {among}" if chance else ""
    return f"{found} hits expected in {spent} validations{at_random}"
