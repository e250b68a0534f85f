"""State that one iteration hands to the next: where it is bound, and which parts of a graph were made before."""

from __future__ import annotations

from flake8_gradtrap.events import Carried, Site, Thing
from flake8_gradtrap.interp.provenance import CUTS, Graph, Provenance, unscaled
from flake8_gradtrap.interp.state import IN_DOUBT, State
from flake8_gradtrap.interp.values import NONE, Const, Listing, Mapping, Ref, Stamp, Sym, Tensor, Tup, Value


def carried_loop(stamp: Stamp, now: Stamp) -> int | None:
    """The running loop in an earlier iteration of which a thing was made; None if it was made before or in this one."""
    for place, (loop, iteration) in enumerate(now):
        if place >= len(stamp) or stamp[place][0] != loop:
            return None
        if stamp[place][1] < iteration:
            return loop
    return None


def set_back(old: Value | None, value: Value, st: State) -> bool:
    """Whether a name lets go of a total, in the run of the loop that extended it, or of what a container holds.

    `old` is None where nothing reads it any more.
    """
    if not st.stamp or old == value:
        return False
    before, after = st.record(old) if old is not None else None, st.record(value)
    if isinstance(before, Tensor):
        last = len(before.stamp) - 1
        if not 0 <= last < len(st.stamp) or before.stamp[:last] != st.stamp[:last]:
            return False
        if before.stamp[last][0] != st.stamp[last][0]:
            return False
    elif old is not None and not isinstance(before, Listing | Mapping):
        return False
    if isinstance(after, Listing | Mapping):
        return not after.items and not (isinstance(after, Listing) and after.items is None)
    return isinstance(value, Const) or (isinstance(after, Tensor) and after.op == "leaf")


def note_carrier(old: Value | None, value: Value, label: str, site: Site, st: State, outlives: bool = False) -> None:
    """Remember of a tensor of this iteration that something holds it now which was there before the iteration.

    `outlives`: it is an attribute, which will be there in the next one, too.
    """
    if old == value or not st.stamp or st.mode is False or not isinstance(value, Ref | Tup):
        return
    before = st.tensor(old)
    if not outlives and (old is None or (before is not None and before.stamp == st.stamp)):
        return  # it was bound in this iteration, and is bound again
    record = st.record(value)
    parts = value.items if isinstance(value, Tup) else (record.items or ()) if isinstance(record, Listing) else (value,)
    for part in parts:
        tensor = st.tensor(part)
        if isinstance(tensor, Tensor) and tensor.stamp == st.stamp and tensor.op not in CUTS and tensor.mode:
            st.set_attr(part, "carried by", NONE if IN_DOUBT in st.conds else Sym("carried", (site, label)))


def _either(value: Value, provenance: Provenance, st: State, depth: int = 0) -> bool:
    """Whether a value is one of several, some of which have no history, where paths were taken together."""
    tensor = st.tensor(value)
    return (tensor is not None and tensor.op == "phi" and depth < 8) and any(
        provenance.history(one) is False or _either(one, provenance, st, depth + 1) for one in tensor.parents
    )


def carried(graph: Graph, provenance: Provenance, st: State) -> tuple[Carried, ...]:
    """The tensors of earlier iterations of running loops through which a graph goes on, from those of this one."""
    if not st.stamp:
        return ()
    made = {value: tensor for value in graph.reaches if (tensor := st.tensor(value)) is not None}
    earlier = {value for value, tensor in made.items() if carried_loop(tensor.stamp, st.stamp) is not None}
    if not earlier:
        return ()
    entering = {parent for value, tensor in made.items() if value not in earlier for parent in tensor.parents}
    found: list[Carried] = []
    for value in entering & earlier:
        mark, site = st.attr(value, "carried by"), made[value].site
        label = ""
        if mark == NONE or _either(value, provenance, st):
            continue  # it may have been computed without gradients, or set anew where a condition says so
        if isinstance(mark, Sym) and isinstance(mark.args[0], Site):
            site, label = mark.args[0], str(mark.args[1])
        # Where nothing is known of what is behind a loss, that loss stands for it.
        needs = frozenset((provenance.graph(value).frees & graph.frees | {value, unscaled(st, value)}) & earlier)
        if site is not None and needs:
            found.append(Carried(site, Thing(value, label), needs, made=made[value].site))
    return tuple(found)
