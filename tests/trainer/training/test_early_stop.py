from anoseg_trainer.training.early_stop import EarlyStop


def test_training_ends_early_after_a_cool_down():
    """Validations without a gain begin the end; the rate falls to 0 within a tenth of the steps so far."""
    early_stop = EarlyStop(2)
    for step, metric in ((100, 0.5), (200, 0.7), (300, 0.7), (400, 0.7005)):
        assert early_stop.rate_factor(step) == 1.0
        early_stop.add_validation(step, metric)
    assert not early_stop.is_over(400)
    assert early_stop.rate_factor(420) == 0.5
    early_stop.add_validation(430, 0.9)  # the end has begun: it is not called off
    assert early_stop.is_over(440)


def test_a_resumed_training_waits_as_long():
    """State of a checkpoint carries on."""
    early_stop = EarlyStop(2)
    early_stop.add_validation(100, 0.5)
    early_stop.add_validation(200, 0.5)
    again = EarlyStop(2, **early_stop.state())
    again.add_validation(300, 0.5)
    assert again.ends_at == 330


def test_a_larger_limit_lifts_an_early_end():
    """A training that ended early goes on if more validations without a gain are allowed, and only then."""
    early_stop = EarlyStop(1)
    early_stop.add_validation(100, 0.5)
    early_stop.add_validation(200, 0.5)
    assert early_stop.is_over(220)
    for limit, over in ((1, True), (2, False), (None, False)):
        assert EarlyStop.resumed(limit, 1, early_stop.state()).is_over(220) == over
    assert EarlyStop.resumed(1, 2, early_stop.state()).is_over(220)


def test_no_limit_never_ends():
    """null: the planned end stands."""
    early_stop = EarlyStop(None)
    for step in range(1, 100):
        early_stop.add_validation(step, 0.5)
    assert not early_stop.is_over(10_000)
