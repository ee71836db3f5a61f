"""Cases of records: what an idempotency key names, kept with the end of its job (rule 21, G15).

Owns: that a record is there if and only if its acknowledgement took effect, for its own time.
Must never: know which broker it tests.
Called by: pytest, through `BrokerConformance`.
"""

import pytest

from dibs.brokers.capabilities import MAX_DURATION_MS, Capabilities
from dibs.brokers.contract import Applied, Broker, Held
from dibs.idempotency import HEADER
from dibs.message import Ack, Record, Result, Settlement
from dibs.testing.conformance.cases import Cases, assert_refused, late, told
from dibs.testing.harness import Harness
from dibs.testing.making import (
    VISIBILITY_MS,
    claim,
    claim_all,
    claim_one,
    ids,
    message,
    messages,
    new_id,
    publish,
    settle,
)

KEEP_MS = 60_000
RECORD_MS = 3 * KEEP_MS
VALUES = {"JSON": b'{"size":[200,150]}', "no value": None, "no bytes": b""}


def unrecorded(id: bytes) -> Result:
    """Return what is said of a record that is not there."""
    return Result(id, None, kept=False)


class Recording(Cases):
    """A result is kept under a second id: in the same step, for a time of its own."""

    @pytest.mark.parametrize("name", VALUES)
    def test_rule_21_a_record_is_readable_once_its_ack_is_applied(
        self, harness: Harness, broker: Broker, name: str
    ) -> None:
        """Beside the result, for everybody, byte for byte, also after reopening."""
        publish(broker, message())
        lease, record = claim_one(broker), new_id()
        asked = [record, lease.message.id]
        assert broker.results(asked) == told(broker, unrecorded(record), None)
        settle(broker, lease, Ack(VALUES[name], KEEP_MS, Record(record, RECORD_MS)))
        kept = told(broker, *(Result(id, VALUES[name]) for id in asked))
        assert broker.results(asked) == kept
        assert harness.open().results(asked) == kept
        assert harness.reopen(broker).results(asked) == kept

    @pytest.mark.parametrize(("keep_ms", "record_ms"), [(KEEP_MS, RECORD_MS), (RECORD_MS, KEEP_MS)])
    def test_rule_21_result_and_record_are_each_kept_for_their_time(
        self, harness: Harness, broker: Broker, keep_ms: int, record_ms: int
    ) -> None:
        """Not a tick less, and then no more."""
        publish(broker, message())
        lease, record = claim_one(broker), new_id()
        settle(broker, lease, Ack(b"1", keep_ms, Record(record, record_ms)))
        waited = 0
        for until in sorted({keep_ms, record_ms}):
            for now in (until - harness.tick_ms, until):
                harness.let_pass(now - waited)
                waited = now
                ends = {lease.message.id: keep_ms, record: record_ms}
                expected = [
                    Result(id, b"1") if now < end else unrecorded(id) for id, end in ends.items()
                ]
                assert broker.results([*ends]) == told(broker, *expected)

    def test_rule_21_a_record_is_kept_where_the_result_is_not(self, broker: Broker) -> None:
        """The other way round it is no record: one for no time is none."""
        publish(broker, *messages(2))
        first, second = claim(broker, limit=2)
        records = new_id(), new_id()
        settle(broker, first, Ack(b"1", 0, Record(records[0], KEEP_MS)))
        settle(broker, second, Ack(b"2", KEEP_MS, Record(records[1], 0)))
        asked = [records[0], first.message.id, records[1], second.message.id]
        values = (b"1", None, None, b"2")
        ends = [
            Result(id, value, kept=value is not None)
            for id, value in zip(asked, values, strict=True)
        ]
        assert broker.results(asked) == told(broker, *ends)

    def test_rule_21_a_late_record_is_kept_and_a_stale_one_is_not(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Law 2: whoever lost the lease writes down nothing."""
        publish(broker, message())
        old, record = claim_one(broker), new_id()
        harness.let_pass(VISIBILITY_MS)
        new = claim_one(broker)
        settle(broker, old, Ack(b"stale", KEEP_MS, Record(record, RECORD_MS)))
        assert broker.results([record]) == told(broker, unrecorded(record))
        harness.let_pass(VISIBILITY_MS)
        ack = Ack(b"late", 0, Record(record, RECORD_MS))
        assert settle(broker, new, ack) == late(broker)
        kept = Result(record, b"late") if broker.capabilities.native_fence else unrecorded(record)
        assert broker.results([record]) == told(broker, kept)

    def test_rule_21_of_two_acknowledgements_of_one_record_one_is_kept(
        self, broker: Broker
    ) -> None:
        """In one batch, and the later one in the place of the earlier."""
        publish(broker, *messages(3))
        first, second, third = claim(broker, limit=3)
        record = new_id()
        both = [
            Settlement(lease, Ack(value, KEEP_MS, Record(record, RECORD_MS)))
            for lease, value in ((first, b"1"), (second, b"2"))
        ]
        assert broker.settle(both) == [Applied(), Applied()]
        asked = [record, *ids([first, second])]
        end, *others = broker.results(asked)
        assert end is None or end.value in (b"1", b"2")
        results = (Result(id, value) for id, value in zip(asked[1:], (b"1", b"2"), strict=True))
        assert others == told(broker, *results)
        settle(broker, third, Ack(b"3", 0, Record(record, RECORD_MS)))
        assert broker.results([record]) == told(broker, Result(record, b"3"))

    @pytest.mark.parametrize("keep_ms", [-1, -(2**40), MAX_DURATION_MS + 1, 2**70])
    def test_an_absurd_duration_of_a_record_stops_nobody(
        self, broker: Broker, keep_ms: int
    ) -> None:
        """It is taken as the nearest that can be."""
        publish(broker, *messages(2))
        absurd, plain = claim(broker, limit=2)
        record = new_id()
        batch = [
            Settlement(absurd, Ack(b"1", 0, Record(record, keep_ms))),
            Settlement(plain, Ack()),
        ]
        assert broker.settle(batch) == [Applied(), Applied()]
        kept = Result(record, b"1") if keep_ms > 0 else unrecorded(record)
        assert broker.results([record]) == told(broker, kept)

    def test_rule_21_a_record_that_is_cut_short_is_whole_or_nothing(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Done and recorded, or neither: no moment in which a second job would be run."""
        publish(broker, message())
        lease, record = claim_one(broker), new_id()
        ack = Ack(b"1", KEEP_MS, Record(record, RECORD_MS))

        def still_held() -> None:
            assert broker.extend([lease]) == [Held(VISIBILITY_MS / 1000)]
            assert broker.results([record]) == told(broker, unrecorded(record))

        self.cut_short(harness, lambda: broker.settle([Settlement(lease, ack)]), still_held)
        assert claim_all(broker) == []
        assert broker.results([record]) == told(broker, Result(record, b"1"))

    def test_rule_02_a_key_is_refused_where_no_record_can_be_kept(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """Never silently ignored: a second job would be run."""
        new = message(headers={HEADER: "charge-17"})
        if capabilities.results:
            publish(broker, new)
            assert claim_one(broker).message == new
        else:
            assert_refused(broker, new, "idempotency key")
