"""What all tests share: property tests try the same examples in every run and have no clock."""

from hypothesis import settings

settings.register_profile("rome", deadline=None, derandomize=True, database=None)
settings.load_profile("rome")
