"""`macloom serve-sim`: what users of a server wait for."""

from __future__ import annotations

from argparse import Namespace

from macloom.cli.console import Console
from macloom.errors import MacloomError
from macloom.explore.serving import (
    Objective,
    Policy,
    Request,
    ServingResult,
    fitted,
    fixed,
    get_scenario,
    longest_context,
    read_requests,
    serve,
)
from macloom.explore.serving.memory import size_text
from macloom.explore.serving.scheduler import Progress
from macloom.units import format_quantity, parse_quantity


def run(options: Namespace, console: Console) -> None:
    """Serve the requests, print latencies, throughput, energy and memory, and write the files if asked to."""
    if options.plot:
        from macloom.explore.style import check_plot_path

        check_plot_path("--plot", options.plot)
    longest = longest_context(options.workload)
    asked, origin = _requests(options, console.seed, longest)
    requests, prompts_cut, outputs_cut = fitted(asked, longest)
    for count, what in ((prompts_cut, "prompts"), (outputs_cut, "outputs")):
        if count:
            console.note(f"{count} of {len(requests)} {what} are cut to the model's longest context, {longest} tokens")
    objective = Objective(
        ttft_s=_quantity(options.slo_ttft, "s", "--slo-ttft"), tpot_s=_quantity(options.slo_tpot, "s", "--slo-tpot")
    )
    memory = _quantity(options.memory, "bit", "--memory")
    with console.progress("serving") as progress:
        result = serve(
            options.workload,
            options.accelerator,
            options.recipe,
            requests,
            policy=Policy(
                tokens=options.tokens,
                requests=options.batch,
                chunked=not options.whole_prompts,
                block=options.block,
            ),
            objective=objective,
            memory_bits=None if memory is None else int(memory),
            settings={
                "requests": {**origin, "prompts_cut": prompts_cut, "outputs_cut": outputs_cut},
                "seed": console.seed,
            },
            progress=_tenths(progress),
        )
    if options.out:
        for path in result.save(options.out):
            console.note(f"wrote {path}")
    if options.plot:
        from macloom.explore.serving.plot import serving_figure
        from macloom.explore.style import save_figure

        console.note(f"wrote {save_figure(serving_figure(result), options.plot)}")
    console.emit(result.to_dict(), lambda: _show(result, console))


def _requests(options: Namespace, seed: int, longest: int | None) -> tuple[tuple[Request, ...], dict[str, object]]:
    if options.trace:
        if options.scenario:
            raise MacloomError("--trace: must not be given beside --scenario, whose place it takes")
        return read_requests(options.trace, longest), {"trace": str(options.trace)}
    name = options.scenario or "chat"
    scenario = get_scenario(name)
    if name == "fixed":
        scenario = fixed(options.prompt or 512, options.output or 128)
    elif options.prompt or options.output:
        raise MacloomError(f"--prompt, --output: must be left out for {name}, whose lengths are drawn")
    drawn = scenario.requests(options.requests, rate=options.rate, seed=seed, variation=options.variation)
    return drawn, {
        "scenario": name,
        "source": scenario.source,
        "count": options.requests,
        "rate": options.rate,
        "variation": options.variation,
    }


def _tenths(progress: Progress) -> Progress:
    """Return a progress that passes on ten steps; iterations are many."""
    seen = -1

    def report(text: str, done: int, total: int) -> None:
        nonlocal seen
        if (tenth := 10 * done // total) > seen:
            seen = tenth
            progress(f"{done} of {total} requests", min(tenth, 9), 10)

    return report


def _quantity(text: str | None, unit: str, path: str) -> float | None:
    return None if text is None else parse_quantity(text, unit, path)


def _show(result: ServingResult, console: Console) -> None:
    totals = result.totals()
    names = {"ttft_s": "time to first token", "tpot_s": "time per output token", "latency_s": "whole request"}
    columns = ("", "mean", "p50", "p90", "p99")
    rows = [
        (text, *(format_quantity(totals[name][column], "s") if totals[name] else "-" for column in columns[1:]))
        for name, text in names.items()
    ]
    settings = result.settings
    console.table(
        f"{settings['model']}, {settings['recipe']['name']} on {settings['accelerator']['name']}: "
        f"{totals['requests']} requests in {format_quantity(totals['seconds'], 's')}",
        columns,
        rows,
        left={""},
    )
    limit, goodput = totals["cache_bytes"], "-"
    if result.objective.given:
        goodput = f"{totals['goodput_requests_per_s']:.3g} requests per second, {totals['met_share']:.1%}"
    console.lines(
        [
            ("output tokens", f"{totals['output_tokens_per_s']:.4g} per second"),
            ("mean batch", f"{totals['mean_batch']:.3g} requests, {totals['iterations']} iterations"),
            ("goodput", goodput),
            ("energy", f"{format_quantity(totals['energy_per_output_token_j'], 'J')} per output token"),
            ("", f"prefill {format_quantity(totals['prefill_j'], 'J')}, decode "
                 f"{format_quantity(totals['decode_j'], 'J')}"),
            ("weights", size_text(8 * totals["weight_bytes"])),
            ("cache", f"{size_text(8 * totals['peak_cache_bytes'])} at most"
                      + (f" of {size_text(8 * limit)}" if limit else "")),
            ("preemptions", totals["preemptions"]),
        ]
    )  # fmt: skip
