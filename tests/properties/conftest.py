"""Fewer examples by default; ``--hypothesis-profile=thorough`` looks longer."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "everyday", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("thorough", parent=settings.get_profile("everyday"), max_examples=1000)
settings.load_profile("everyday")
