"""A whole recording through a session, in pushes of one size."""


def push_all(session, samples, rate: int, push_samples: int) -> list:
    """The events of samples [n] or [n, channels] of `rate` and of their end; push_samples: in each push."""
    events = []
    for start in range(0, len(samples), push_samples):
        events += session.push(samples[start : start + push_samples], rate)
    return events + session.finish()
