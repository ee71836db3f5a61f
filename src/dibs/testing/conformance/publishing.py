"""Cases of publishing: rules 1, 2, 3, 5, 6 and 34 of the contract.

Owns: what is stored, what is a duplicate, and that bytes come back as they were.
Must never: know which broker it tests.
Called by: pytest, through `BrokerConformance`.
"""

import pytest

from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import Broker, Duplicate, Refused, Stored
from dibs.errors import OptionError
from dibs.message import Ack, Message, Nack, Release
from dibs.testing.conformance.cases import Cases, again, assert_refused, in_order
from dibs.testing.harness import Harness
from dibs.testing.making import (
    ERROR,
    OUTCOMES,
    VISIBILITY_MS,
    claim,
    claim_all,
    claim_one,
    ids,
    lawful_fields,
    message,
    messages,
    publish,
    refused_fields,
    settle,
)

WHEN = ["ready", "scheduled", "in flight", "overdue", "returned", "returned later"]
_NAMES = Capabilities(durability="D0", durability_note="", batch_limit=1, payload_limit=0)
REFUSED = list(refused_fields(_NAMES))
LAWFUL = list(lawful_fields(_NAMES))


def bring_to(when: str, harness: Harness, broker: Broker, first: Message) -> None:
    """Publish `first`, and take it to a moment of its life in which it is live."""
    publish(broker, first)
    if when in ("in flight", "overdue", "returned", "returned later"):
        lease = claim_one(broker)
        if when == "overdue":
            harness.let_pass(VISIBILITY_MS)
            assert claim(broker, "another") == []
        elif when != "in flight":
            delay_ms = 60_000 if when == "returned later" else 0
            settle(broker, lease, Nack(delay_ms, ERROR))


class Publishing(Cases):
    """What `publish` stores, and what it answers."""

    @pytest.mark.parametrize("count", [1, 2, 10, 250])
    def test_rule_01_all_that_is_published_is_granted_and_ends_with_its_ack(
        self, broker: Broker, count: int
    ) -> None:
        """No loss, and nothing left over."""
        published = publish(broker, *messages(count))
        leases = claim_all(broker)
        assert in_order(broker, ids(leases)) == in_order(broker, ids(published))
        for lease in leases:
            settle(broker, lease, Ack())
        assert claim_all(broker) == []

    def test_rule_02_an_empty_store_grants_nothing(self, broker: Broker) -> None:
        """No invention."""
        assert claim_all(broker) == []

    def test_rule_02_publishing_nothing_stores_nothing(self, broker: Broker) -> None:
        """An empty batch is no mistake."""
        assert broker.publish([]) == []
        assert claim_all(broker) == []

    @pytest.mark.parametrize("name", REFUSED)
    def test_rule_02_what_is_refused_is_named_and_never_granted(
        self, broker: Broker, capabilities: Capabilities, name: str
    ) -> None:
        """Each fault alone, and the reason says which."""
        fields, word = refused_fields(capabilities)[name]
        assert_refused(broker, message(**fields), word)

    @pytest.mark.parametrize("name", LAWFUL)
    def test_rule_03_a_message_comes_back_byte_for_byte(
        self, broker: Broker, capabilities: Capabilities, name: str
    ) -> None:
        """All fields, at their limits and past what JSON or text could carry."""
        whole = message(**lawful_fields(capabilities)[name])
        if whole.unique_key and not capabilities.unique_keys:
            assert_refused(broker, whole, "unique keys")
        elif whole.priority and not capabilities.priorities:
            assert_refused(broker, whole, "priority")
        else:
            publish(broker, whole)
            assert claim_one(broker, whole.queue).message == whole

    def test_rule_03_a_message_comes_back_the_same_at_every_claim(self, broker: Broker) -> None:
        """Also after it was returned, and whatever its holder did to its own copy."""
        headers = {"trace": "1"}
        (whole,) = publish(broker, message(headers=headers, args=b"\0\1\2"))
        headers["trace"] = "changed by the publisher"
        lease = claim_one(broker)
        assert lease.message.headers == {"trace": "1"}
        lease.message.headers["trace"] = "changed by a holder"
        settle(broker, lease, Release())
        again = claim_one(broker).message
        assert again.headers == {"trace": "1"}
        assert (again.id, again.args) == (whole.id, whole.args)

    @pytest.mark.parametrize("when", WHEN)
    def test_rule_05_the_same_id_is_the_same_message(
        self, harness: Harness, broker: Broker, when: str
    ) -> None:
        """In every live state the second publish stores nothing and names the first.

        Where ids are not looked up, it stores another message, and says so.
        """
        due_ms = harness.clock.wall_ms() + 60_000 if when == "scheduled" else 0
        first = message(due_ms=due_ms)
        bring_to(when, harness, broker, first)
        second = message("another", id=first.id, args=b"[2]")
        assert broker.publish([second]) == [again(broker, first.id)]
        stored = [] if broker.capabilities.unique_ids else [second.id]
        assert ids(claim_all(broker, "another")) == stored

    def test_rule_05_a_dead_message_keeps_its_id_but_not_its_key(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """A dead letter may be sent back, so its id is taken; its key is free for new work."""
        key = "only" if capabilities.unique_keys else None
        (first,) = publish(broker, message(unique_key=key))
        settle(broker, claim_one(broker), OUTCOMES["dead letter"])
        assert broker.publish([message(id=first.id)]) == [again(broker, first.id)]
        assert broker.publish([message(unique_key=key)]) == [Stored()]

    def test_rule_05_an_id_is_free_once_its_message_is_gone(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """Unless the broker declares a window, and then it keeps it."""
        (first,) = publish(broker, message())
        settle(broker, claim_one(broker), Ack())
        window = capabilities.dedupe_window_seconds
        assert broker.publish([first]) == [Duplicate(first.id) if window else Stored()]

    @pytest.mark.parametrize("when", WHEN)
    def test_rule_05_a_unique_key_holds_while_its_message_is_live(
        self, harness: Harness, broker: Broker, capabilities: Capabilities, when: str
    ) -> None:
        """The second publish names the message that has the key, in whatever queue it is."""
        due_ms = harness.clock.wall_ms() + 60_000 if when == "scheduled" else 0
        first = message(due_ms=due_ms, unique_key="only")
        if not capabilities.unique_keys:
            assert_refused(broker, first, "unique keys")
            return
        bring_to(when, harness, broker, first)
        assert broker.publish([message("another", unique_key="only")]) == [Duplicate(first.id)]
        assert claim_all(broker, "another") == []

    def test_rule_05_a_unique_key_is_free_once_its_message_is_gone(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """And may be used again and again."""
        for _ in range(3):
            new = message(unique_key="only")
            if capabilities.unique_keys:
                publish(broker, new)
                settle(broker, claim_one(broker), Ack())
            else:
                assert_refused(broker, new, "unique keys")

    def test_rule_05_unique_keys_are_compared_exactly(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """No folding of case, space, accents or what follows a zero byte."""
        keys = ["a", "A", "a ", "a\0", "a\0b", "é", "e\u0301", "1", "01"]
        new = [message(unique_key=key) for key in keys]
        if capabilities.unique_keys:
            assert broker.publish(new) == [Stored()] * len(keys)
        else:
            for each in new:
                assert_refused(broker, each, "unique keys")

    def test_rule_05_a_duplicate_within_one_batch_is_found(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """By id and by key, and the first one is the one that is stored."""
        key = "only" if capabilities.unique_keys else None
        first = message(unique_key=key)
        batch = [first, message(id=first.id, args=b"2")]
        expected = [Stored(), again(broker, first.id)]
        if key is not None:
            batch.append(message(unique_key=key))
            expected.append(Duplicate(first.id))
        assert broker.publish(batch) == expected
        stored = [first] if broker.capabilities.unique_ids else batch
        granted = [lease.message.args for lease in claim_all(broker)]
        assert sorted(granted) == sorted(one.args for one in stored)

    def test_rule_05_a_duplicate_does_not_take_the_key_that_it_asked_for(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """What stores nothing, holds nothing."""
        key = "second" if capabilities.unique_keys else None
        (first,) = publish(broker, message())
        assert broker.publish([message(id=first.id, unique_key=key)]) == [again(broker, first.id)]
        assert broker.publish([message(unique_key=key)]) == [Stored()]

    def test_rule_06_one_refused_message_does_not_stop_the_others(self, broker: Broker) -> None:
        """One answer for each, in order."""
        good = messages(3)
        batch = [message(""), good[0], message(task=""), good[1], good[0], good[2], message(id=b"")]
        answers = broker.publish(batch)
        second = type(again(broker, good[0].id))
        kinds = [Refused, Stored, Refused, Stored, second, Stored, Refused]
        assert [type(answer) for answer in answers] == kinds
        stored = good if broker.capabilities.unique_ids else [*good, good[0]]
        assert in_order(broker, ids(claim_all(broker))) == in_order(broker, ids(stored))

    def test_rule_06_a_batch_over_the_limit_is_a_mistake_and_stores_nothing(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """Cutting it up here would make two steps of one."""
        batch = messages(capabilities.batch_limit + 1)
        with pytest.raises(OptionError, match=f"{len(batch):,}"):
            broker.publish(batch)
        assert claim_all(broker) == []

    def test_rule_06_a_batch_at_the_limit_is_stored(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """The declared limit is the real one."""
        batch = messages(capabilities.batch_limit)
        assert broker.publish(batch) == [Stored()] * len(batch)

    def test_rule_34_what_this_version_does_not_know_passes_through_untouched(
        self, broker: Broker
    ) -> None:
        """The broker stores unknown versions and tasks; the worker judges them."""
        strange = message(version=999, task="of a later release", args=b"\xc1")
        publish(broker, strange)
        assert claim_one(broker).message == strange

    def test_a_queue_needs_no_declaration(self, broker: Broker) -> None:
        """Publishing to a new queue makes it."""
        publish(broker, message("brand-new"))
        assert len(claim_all(broker, "brand-new")) == 1

    def test_declaring_is_harmless(self, broker: Broker) -> None:
        """Twice, of nothing, and over what lies there."""
        published = publish(broker, message())
        for _ in range(2):
            broker.declare(["photos", "empty"])
            broker.declare([])
        assert ids(claim_all(broker, "photos", "empty")) == ids(published)

    @pytest.mark.parametrize("name", ["", "q" * 61, "a b", "queue\n", "né", "\ud800"])
    def test_declaring_a_bad_name_is_a_mistake(self, broker: Broker, name: str) -> None:
        """The error quotes it, and can be printed."""
        with pytest.raises(OptionError) as caught:
            broker.declare(["lawful", name])
        assert repr(name) in str(caught.value)
        assert str(caught.value).encode()
