"""A plugin of pytest for runs of faulty code: a few examples, and no time for making a failing one small."""

import hypothesis

hypothesis.settings.register_profile(
    "quick",
    derandomize=True,
    database=None,
    max_examples=25,
    deadline=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=[*hypothesis.HealthCheck],
)
