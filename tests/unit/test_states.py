"""The table of states is what it says: every pair is decided, every state is reached and left."""

import pytest

from dibs.states import MOVES, Event, State, after

ALL_STATES = (None, *State)
PAIRS = [(state, event) for state in ALL_STATES for event in Event]
LAWFUL = [pair for pair in PAIRS if pair in MOVES]
UNLAWFUL = [pair for pair in PAIRS if pair not in MOVES]


def reachable(start: State | None) -> set[State | None]:
    """Every state that some way leads to from `start`."""
    found: set[State | None] = {start}
    while True:
        further = {to for (of, _), to in MOVES.items() if of in found}
        if further <= found:
            return found
        found |= further


def test_the_table_names_only_known_states_and_events() -> None:
    assert set(MOVES) <= set(PAIRS)


@pytest.mark.parametrize(("state", "event"), LAWFUL, ids=str)
def test_a_move_in_the_table_is_made(state: State | None, event: Event) -> None:
    assert after(state, event) is MOVES[state, event]


@pytest.mark.parametrize(("state", "event"), UNLAWFUL, ids=str)
def test_a_move_that_is_not_in_the_table_is_refused(state: State | None, event: Event) -> None:
    with pytest.raises(KeyError):
        after(state, event)


def test_every_event_moves_something() -> None:
    assert {event for _, event in MOVES} == set(Event)


def test_every_state_is_reached() -> None:
    assert reachable(None) == {None, *State}


def test_gone_is_final() -> None:
    assert reachable(State.GONE) == {State.GONE}


def test_a_dead_letter_moves_only_when_a_person_says_so() -> None:
    assert {event for of, event in MOVES if of is State.DEAD} == {Event.REDRIVE, Event.DISCARD}


@pytest.mark.parametrize("state", [State.READY, State.SCHEDULED, State.IN_FLIGHT])
def test_a_live_message_can_still_be_finished_and_given_up(state: State) -> None:
    assert {State.GONE, State.DEAD} <= reachable(state)


def test_nothing_comes_back_to_before_it_was_published() -> None:
    assert None not in MOVES.values()


def test_only_a_claim_or_its_own_holder_puts_a_message_in_flight() -> None:
    into = {event for (_, event), to in MOVES.items() if to is State.IN_FLIGHT}
    assert into == {Event.CLAIM, Event.REVIVE}


def test_a_message_ends_in_the_hands_of_a_holder_or_of_a_person() -> None:
    by_people = {Event.PURGE, Event.DISCARD}
    ends = {(of, event) for (of, event), to in MOVES.items() if to in (State.GONE, State.DEAD)}
    assert {of for of, event in ends if event not in by_people} == {State.IN_FLIGHT}


def test_no_person_ends_what_is_in_flight() -> None:
    held = {event for of, event in MOVES if of is State.IN_FLIGHT}
    assert not held & {Event.PURGE, Event.DISCARD, Event.REDRIVE}
