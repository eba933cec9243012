"""What holds for every test: hypothesis times none, for a machine that is busy is no error."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
