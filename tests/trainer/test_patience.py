from anoseg_trainer.training import Patience


def test_training_ends_early_after_a_cool_down():
    """Validations without a gain begin the end; the rate falls to 0 within a tenth of the steps so far."""
    patience = Patience(2)
    for step, merit in ((100, 0.5), (200, 0.7), (300, 0.7), (400, 0.7005)):
        assert patience.share(step) == 1.0
        patience.note(step, merit)
    assert not patience.is_over(400)
    assert patience.share(420) == 0.5
    patience.note(430, 0.9)  # the end has begun: it is not called off
    assert patience.is_over(440)


def test_a_resumed_training_waits_as_long():
    """State of a checkpoint carries on."""
    patience = Patience(2)
    patience.note(100, 0.5)
    patience.note(200, 0.5)
    again = Patience(2, **patience.state())
    again.note(300, 0.5)
    assert again.ends_at == 330


def test_no_limit_never_ends():
    """null: the planned end stands."""
    patience = Patience(None)
    for step in range(1, 100):
        patience.note(step, 0.5)
    assert not patience.is_over(10_000)
