"""What model calls have taken, noted in each step and added up when somebody asks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crewai_prod.paid import Paid
from crewai_prod.records import Usage
from crewai_prod.steps import lies_in

PATHS = ["run", "tasks/0", "tasks/0/Clerk", "tasks/1/Clerk"]
USAGES = st.builds(Usage, input_tokens=st.integers(0, 9), output_tokens=st.integers(0, 9))
NOTES = st.lists(st.tuples(st.sampled_from(PATHS), USAGES | st.none()), max_size=30)


@given(st.dictionaries(st.sampled_from(PATHS), USAGES), NOTES)
def test_sums_are_those_of_the_notes(
    before: dict[str, Usage], notes: list[tuple[str, Usage]]
) -> None:
    """Whoever asks in between (None) changes nothing."""
    paid = Paid(sum(before.values(), Usage()), before)
    made = list(before.items())
    for path, usage in notes:
        if usage is None:
            assert paid.total == sum((one for _, one in made), Usage())
        else:
            paid.note(path, usage)
            made.append((path, usage))
    for scope in PATHS:
        inside = [usage for path, usage in made if lies_in(path, scope)]
        assert paid.within(scope) == sum(inside, Usage())
    assert paid.total == sum((one for _, one in made), Usage())


def test_notes_do_not_pile_up() -> None:
    """A run of any length, of which nobody asks anything, keeps a bounded number."""
    paid = Paid()
    for _ in range(2000):
        paid.note("run", Usage(input_tokens=1, calls=1))
    assert len(paid._notes) < 1000
    assert paid.total == Usage(input_tokens=2000, calls=2000)
