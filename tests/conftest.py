"""What holds for every test."""

from hypothesis import settings

# No deadlines: the machines that tests run on are shared and noisy, and a test of a property is not one of speed.
settings.register_profile("samepaged", deadline=None)
settings.load_profile("samepaged")
