"""The parts that decide who is served when: the fair queue, the stage, the gate."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechprompt.errors import AudioError, DeadlineExceeded, HungUp, Overloaded, TooLarge
from speechprompt.server.fair_queue import FairQueue
from speechprompt.server.gate import Gate
from speechprompt.server.stage import Piece, Stage


def alone(taken: list[str], item: str) -> bool:
    return False


def drained(queue: FairQueue[str]) -> list[str]:
    return [queue.take(alone, 0)[0] for _ in range(len(queue))]


def test_a_client_with_little_work_overtakes_one_with_much() -> None:
    queue: FairQueue[str] = FairQueue()
    for i in range(100):
        queue.push("flood", 1.0, f"flood {i}")
    assert [queue.take(alone, 0)[0] for _ in range(10)] == [f"flood {i}" for i in range(10)]
    queue.push("visitor", 1.0, "visitor")
    assert "visitor" in drained(queue)[:2]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 5.0)), max_size=60))
def test_clients_share_by_cost_and_keep_their_own_order(work: list[tuple[str, float]]) -> None:
    queue: FairQueue[str] = FairQueue()
    for i, (client, cost) in enumerate(work):
        queue.push(client, cost, f"{client}{i}")
    order = drained(queue)
    assert Counter(order) == Counter(f"{client}{i}" for i, (client, _) in enumerate(work))
    costs = {f"{client}{i}": cost for i, (client, cost) in enumerate(work)}
    served = dict.fromkeys("abc", 0.0)
    left = Counter(item[0] for item in order)
    for client in "abc":
        own = [item for item in order if item[0] == client]
        assert own == sorted(own, key=lambda item: int(item[1:]))
    for item in order:
        waiting = [client for client in "abc" if left[client] and client != item[0]]
        for client in waiting:  # nobody who waits is behind by more than one piece of the largest size
            assert served[item[0]] - served[client] <= 5.0 + 1e-9
        served[item[0]] += costs[item]
        left[item[0]] -= 1


def test_a_batch_takes_what_fits_and_others_keep_their_place() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "b1", "a2", "b2", "a3"):
        queue.push("client", 1.0, item)
    batch = queue.take(lambda taken, item: item[0] == taken[0][0] and len(taken) < 2, 10)
    assert batch == ["a1", "a2"]
    assert drained(queue) == ["b1", "b2", "a3"]


class Waiting:
    """Somebody who waits for pieces, on a thread's side."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.deadline, self.cancelled, self.abandoned = time.monotonic() + seconds, False, False
        self.outputs: dict[int, int] = {}
        self.error: Exception | None = None
        self.ended = threading.Event()

    def receive(self, index: int, output: int) -> None:
        self.outputs[index] = output
        self.ended.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.ended.set()


class Silent:
    def batch(self, stage: str, rows: int, waited_seconds: float, work_seconds: float) -> None: ...


def squares(works: Sequence[int]) -> list[int]:
    if any(work < 0 for work in works):
        raise AudioError("below zero")
    return [work * work for work in works]


def stage() -> Stage[int, int]:
    return Stage("test", squares, lambda batch, piece: len(batch) < 8, 8, Silent())


def piece(work: int, receiver: Waiting) -> Piece[int, int]:
    return Piece(work, 1, receiver, work, time.monotonic())


def test_a_bad_piece_fails_alone_and_closing_finishes_what_was_queued() -> None:
    receivers = [Waiting() for _ in range(20)]
    under_test = stage()
    for i, receiver in enumerate(receivers):
        under_test.submit("client", [piece(-1 if i == 5 else i, receiver)], 1.0)
    under_test.start()
    under_test.close()
    assert isinstance(receivers[5].error, AudioError)
    assert [r.outputs for i, r in enumerate(receivers) if i != 5] == [{i: i * i} for i in range(20) if i != 5]


def test_what_is_late_or_unwanted_is_not_worked_on() -> None:
    late, gone, hung_up, fine = Waiting(seconds=-1.0), Waiting(), Waiting(), Waiting()
    gone.cancelled = hung_up.abandoned = True
    under_test = stage()
    for receiver in (late, gone, hung_up, fine):
        under_test.submit("client", [piece(3, receiver)], 1.0)
    under_test.start()
    under_test.close()
    assert isinstance(late.error, DeadlineExceeded)
    assert isinstance(hung_up.error, HungUp)
    assert (gone.outputs, gone.error) == ({}, None)
    assert fine.outputs == {3: 9}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_gate_lets_in_what_can_be_answered_in_time() -> None:
    clock = Clock()
    gate = Gate(clock)
    with gate.enter("a", clock.now + 10) as first:
        first.settle(4.0)
        assert gate.backlog_seconds == pytest.approx(4.0)
        with pytest.raises(Overloaded) as refused, gate.enter("a", clock.now + 10) as second:
            second.settle(2.0)
        assert refused.value.retry_after_seconds == 3  # 4 s of others, and 1 may be waited for
        with (
            pytest.raises(TooLarge, match="over its deadline"),
            gate.enter("b", clock.now + 10) as third,
        ):
            third.settle(11.0)
        with gate.enter("b", clock.now + 10) as newcomer:
            newcomer.settle(0.9)  # its fair share leaves room, whatever the other has queued
        clock.now += 4.0
        first.progress(3.0)
        assert gate.backlog_seconds == pytest.approx(1.0, rel=0.2)
    assert gate.backlog_seconds == 0
    assert gate.accepted == 0


def test_the_gate_weighs_a_request_itself_apart_from_what_it_waits_for() -> None:
    clock = Clock()
    gate = Gate(clock)
    with gate.enter("a", clock.now + 10) as first:
        first.settle(0.8)
        gate.check("a", 10.0, planned_seconds=3.0)  # 3.8 s in all, .8 of them waiting
        with pytest.raises(Overloaded):
            gate.check("a", 10.0, planned_seconds=3.3)  # over .4 of the deadline in all
        with pytest.raises(Overloaded):
            gate.check("a", 5.0, planned_seconds=0.1)  # over .1 of the deadline in waiting


def test_the_gate_learns_that_work_goes_slower_than_planned() -> None:
    clock = Clock()
    gate = Gate(clock)
    for _ in range(30):
        with gate.enter("a", clock.now + 10) as ticket:
            ticket.settle(0.5)
            clock.now += 1.0  # twice as long
    with gate.enter("a", clock.now + 10) as ticket:
        ticket.settle(2.0)
        assert gate.backlog_seconds == pytest.approx(4.0, rel=0.1)
        with pytest.raises(Overloaded):
            gate.check("a", 10.0, planned_seconds=1.0)
        clock.now += 4.0
    clock.now += 1000.0  # idle time says nothing about the pace
    gate.check("a", 10.0)
    with gate.enter("a", clock.now + 10) as ticket:
        ticket.settle(2.0)
        assert gate.backlog_seconds == pytest.approx(4.0, rel=0.1)
