"""`macloom trace`: the operations of a model of transformers, from its configuration, without a weight."""

from __future__ import annotations

from argparse import Namespace

from macloom.cli.console import Console
from macloom.cli.operations import show_workload
from macloom.errors import MacloomError
from macloom.workloads.routing import load_routing
from macloom.workloads.trace.available import require_transformers


def run(options: Namespace, console: Console) -> None:
    """Trace a model, print its operations, and write them as JSON if asked to."""
    if options.phase == "prefill" and options.context is not None:
        raise MacloomError(f"--context: must not be given for prefill, not {options.context}; set --sequence instead")
    if options.phase == "decode" and options.sequence is not None:
        raise MacloomError(f"--sequence: must not be given for decode, not {options.sequence}; set --context instead")
    require_transformers(f"trace: cannot read {options.model}")
    from macloom.workloads.trace import save_trace, trace_workload

    with console.working(f"tracing {options.model}"):
        workload = trace_workload(
            options.model,
            phase=options.phase,
            sequence=options.sequence,
            context=options.context,
            batch=options.batch,
            source=options.source,
            past=options.past,
            head_tokens=options.head_tokens,
            routing=load_routing(options.routing),
        )
    if options.out:
        console.note(f"wrote {save_trace(workload, options.out)}")
    show_workload(workload, console)
