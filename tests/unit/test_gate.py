"""The gate that keeps the end of a session behind the calls that are under way."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from cephfs_ext.core.errors import FSError
from cephfs_ext.storage.gate import Gate


def test_end_waits_for_who_is_inside() -> None:
    async def main() -> None:
        gate, order, leave = Gate(), [], trio.Event()

        async def call() -> None:
            with gate.passed():
                await leave.wait()
                order.append("call")

        async def end() -> None:
            await gate.wait_empty()
            order.append("end")

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            gate.shut()
            nursery.start_soon(end)
            await trio.testing.wait_all_tasks_blocked()
            assert order == []
            leave.set()
        assert order == ["call", "call", "call", "end"]

    trio.run(main)


def test_nobody_gets_in_any_more() -> None:
    gate = Gate()
    with gate.passed():
        pass
    gate.shut()
    assert gate.is_shut
    with pytest.raises(FSError) as caught, gate.passed():
        pass
    assert caught.value.errno == errno.ESHUTDOWN


def test_empty_gate_lets_the_end_through_at_once() -> None:
    async def main() -> None:
        gate = Gate()
        gate.shut()
        with trio.fail_after(5):
            await gate.wait_empty()

    trio.run(main)


def test_a_call_that_fails_is_out() -> None:
    async def main() -> None:
        gate = Gate()
        with pytest.raises(ZeroDivisionError), gate.passed():
            raise ZeroDivisionError
        gate.shut()
        with trio.fail_after(5):
            await gate.wait_empty()

    trio.run(main)
