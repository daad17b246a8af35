"""The checker itself: it accepts what may happen, and reports what must not."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak import models
from tests.soak.conservation import overtaken
from tests.soak.linearize import Op, State, check
from tests.soak.models import Names
from tests.soak.observer import Look, Rename, Restored, Seen

A, B = 0, 1
FILE, OTHER = 0x100, 0x101
EMPTY = Names.empty(2)


def op(when: tuple[float, float], step: models.OnNames, gateway: str = "A", **more: object) -> Op:
    """Return an operation on the name A that was under way from when[0] to when[1]."""
    values: dict[str, object] = {"keys": (A,), "changes": False, **more}
    return Op(f"at {when}", gateway, *when, step=step, **values)


def made(when: tuple[float, float], who: int = FILE, gateway: str = "A") -> Op:
    return op(when, models.made(A, who), gateway, changes=True)


def removed(when: tuple[float, float], gateway: str = "A") -> Op:
    return op(when, models.removed(A), gateway, changes=True)


def seen(when: tuple[float, float], who: int, gateway: str = "A", stale_s: float = 0.0) -> Op:
    return op(when, models.read_name(A, who), gateway, stale_s=stale_s)


def is_consistent(*ops: Op) -> bool:
    return check(ops, EMPTY).consistent


def test_what_was_made_is_seen() -> None:
    assert is_consistent(made((0, 1)), seen((2, 3), FILE, "B"))


def test_what_was_made_is_not_missing_afterwards() -> None:
    assert not is_consistent(made((0, 1)), seen((2, 3), models.ABSENT, "B"))


def test_what_is_being_made_may_be_missing() -> None:
    assert is_consistent(made((0, 2)), seen((1, 3), models.ABSENT, "B"))


def test_a_name_is_not_made_twice() -> None:
    assert not is_consistent(made((0, 2)), made((1, 3), OTHER, "B"))


def test_a_name_is_not_removed_twice() -> None:
    assert not is_consistent(made((0, 1)), removed((2, 4)), removed((3, 5), "B"))


def test_a_cache_may_be_late_but_only_so_much() -> None:
    history = made((0, 1)), removed((2, 3), "B")
    assert is_consistent(*history, seen((3.5, 4), FILE, "A", stale_s=1.0))
    assert not is_consistent(*history, seen((4.5, 5), FILE, "A", stale_s=1.0))


def test_a_gateway_is_never_behind_its_own_answers() -> None:
    history = made((0, 1)), removed((2, 3), "A")
    assert not is_consistent(*history, seen((3.5, 4), FILE, "A", stale_s=1.0))


def test_a_cache_never_goes_back() -> None:
    history = made((0, 1)), removed((2, 3), "B")
    unseen = seen((3.1, 3.2), models.ABSENT, "A")
    assert not is_consistent(*history, unseen, seen((3.5, 4), FILE, "A", stale_s=1.0))


def test_only_what_was_removed_comes_back() -> None:
    restored = op((4, 5), models.restored(A), changes=True)
    gone = made((0, 1)), removed((2, 3))
    assert is_consistent(*gone, restored, seen((6, 7), FILE))
    assert not is_consistent(*gone, restored, seen((6, 7), OTHER))
    assert not is_consistent(restored)


def test_what_does_not_fit_is_named() -> None:
    verdict = check([made((0, 1)), seen((2, 3), OTHER, "B")], EMPTY)
    assert "at (2, 3)" in str(verdict)
    assert "at (0, 1)" in str(verdict)


def test_only_what_came_during_a_rename_onto_its_name_may_be_lost() -> None:
    onto = Rename("mv", "B", 2, 5, (B, A), models.renamed(B, A), True, name=B, new_name=A)
    before = Seen("create", "A", 0, 1, (A,), models.made(A, FILE), True, name=A, who=FILE)
    meanwhile = dataclasses.replace(before, invoked_s=3, answered_s=4)
    assert list(overtaken([before, onto], 1.0)) == []
    assert list(overtaken([meanwhile, onto], 1.0)) == [FILE]


def test_what_was_moved_to_a_name_during_a_rename_onto_it_may_be_lost() -> None:
    onto = Rename("mv", "B", 2, 5, (B, A), models.renamed(B, A), True, name=B, new_name=A)
    moved = Rename("mv", "A", 3, 4, (2, A), models.renamed(2, A), True, name=2, new_name=A)
    seen = Look("stat", "A", 1, 1.5, (2,), models.read_name(2, OTHER), False, name=2, who=OTHER)
    assert list(overtaken([seen, moved, onto], 3.0)) == [OTHER]


def test_what_was_moved_without_being_looked_at_is_followed_back() -> None:
    onto = Rename("mv", "B", 12, 15, (B, A), models.renamed(B, A), True, name=B, new_name=A)
    moved = Rename("mv", "A", 13, 14, (3, A), models.renamed(3, A), True, name=3, new_name=A)
    before = Rename("mv", "A", 3, 4, (2, 3), models.renamed(2, 3), True, name=2, new_name=3)
    made = Seen("mkdir", "A", 1, 2, (2,), models.made(2, OTHER), True, name=2, who=OTHER)
    earlier = Seen("mkdir", "A", 0, 0.5, (3,), models.made(3, FILE), True, name=3, who=FILE)
    assert list(overtaken([earlier, made, before, moved, onto], 1.0)) == [OTHER]


def test_what_was_restored_during_a_rename_is_who_is_seen_then() -> None:
    onto = Rename("mv", "B", 2, 5, (B, A), models.renamed(B, A), True, name=B, new_name=A)
    back = Restored("restore", "A", 3, 4, (A,), models.restored(A), True, name=A)
    seen = Look("stat", "A", 4, 4.5, (A,), models.read_name(A, OTHER), False, name=A, who=OTHER)
    assert list(overtaken([onto, back, seen], 1.0)) == [OTHER]


@st.composite
def histories(draw: st.DrawFn) -> list[Op]:
    """Draw up to six operations of two gateways on one name."""
    answers = (
        models.made(A, FILE),
        models.made(A, OTHER),
        models.removed(A),
        models.read_name(A, FILE),
        models.read_name(A, models.ABSENT),
    )
    ops = []
    for _ in range(draw(st.integers(1, 6))):
        step = draw(st.integers(0, len(answers) - 1))
        begun, lasts = draw(st.integers(0, 8)), draw(st.integers(1, 4))
        stale_s = draw(st.sampled_from((0.0, 1.5))) if step == 3 else 0.0
        when, gateway = (float(begun), float(begun + lasts)), draw(st.sampled_from("AB"))
        ops.append(op(when, answers[step], gateway, changes=step < 3, stale_s=stale_s))
    return ops


@given(histories())
def test_verdict_is_that_of_trying_every_order(ops: list[Op]) -> None:
    assert is_consistent(*ops) == any(map(_fits, itertools.permutations(ops)))


def _fits(order: Sequence[Op]) -> bool:
    if any(_must_precede(later, op) for op, later in itertools.combinations(order, 2)):
        return False
    states: set[State] = {EMPTY}
    for each in order:
        states = {after for state in states for after in each.step(state)}
    return bool(states)


def _must_precede(first: Op, then: Op) -> bool:
    if first.answered_s < then.start_s:
        return True
    return first.gateway == then.gateway and first.answered_s < then.invoked_s


@pytest.mark.parametrize("stale_s", [0.0, 2.0])
def test_histories_of_thousands_are_checked(stale_s: float) -> None:
    ops: list[Op] = []
    for n in range(2000):
        who = FILE + n
        ops += [made((4 * n, 4 * n + 1), who), seen((4 * n, 4 * n + 2), who, "B", stale_s)]
        ops += [removed((4 * n + 2, 4 * n + 3), "B")]
    assert check(ops, EMPTY).consistent
    ops[-1] = dataclasses.replace(ops[-1], step=models.read_name(A, OTHER), changes=False)
    assert not check(ops, EMPTY).consistent
