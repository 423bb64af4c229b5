from hypothesis import settings

# No test depends on a clock: a slow machine is no failure.
settings.register_profile("eru", deadline=None)
settings.load_profile("eru")
