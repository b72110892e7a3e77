"""What is wrong with the traces of a contribution, as they lie in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from leaderboard.verify_trace.footer import foreign_parts
from moeload_bench.errors import TraceError
from moeload_bench.publishing.contribution import copies_of, foreign_files, meta_problems, read_contributed, trace_files
from moeload_bench.traces.store import TraceRef


def contribution_problems(path: Path, known: Iterable[TraceRef], taken: Iterable[str] = ()) -> Iterator[str]:
    """Yield one line for each reason why the traces at a path cannot be published; none if they can.

    The checks: nothing but traces, of a bounded size; nothing in their files but columns and record (`foreign_parts`);
    both hashes and conservation of counts; stated count semantics; an open licence; nothing in the metadata that
    identifies a machine or a person; a recipe's name that is not one of the ``taken`` ones; and no training that is
    among the ``known`` traces or twice in the contribution, also permuted, cut, sampled or thinned (`duplicate_of`).
    """
    yield from foreign_files(path)
    refs, names, traces = list(known), set(taken), trace_files(path)
    for number, file in enumerate(traces):
        try:
            trace, foreign = read_contributed(file), foreign_parts(file)
        except TraceError as error:
            yield str(error)
            continue
        yield from (f"{file}: {line}" for line in (*foreign, *meta_problems(trace.meta, names)))
        yield from copies_of(file, trace, refs, traces[:number])
