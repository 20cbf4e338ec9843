"""How many requests a sender may send."""

from anosegd.control.rates import MAX_SENDERS, RATE, Rates


def test_a_burst_then_the_rate() -> None:
    rates = Rates()
    assert sum(rates.allows("screen", 0.0) for _ in range(1000)) == RATE
    assert sum(rates.allows("screen", 0.5) for _ in range(1000)) == RATE / 2
    assert rates.allows("plc", 0.5)


def test_only_so_many_senders_are_remembered() -> None:
    """The one that was silent longest is forgotten; a sender that is remembered stays limited."""
    rates = Rates()
    for number in range(3 * MAX_SENDERS):
        rates.allows(str(number), 0.0)
        for _ in range(2):
            rates.allows("busy", 0.0)
    assert not rates.allows("busy", 0.0)
    assert len(rates._buckets) == MAX_SENDERS
