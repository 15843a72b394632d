from hypothesis import settings

# Correctness never hangs on timing: a busy machine is not a failure.
settings.register_profile("tidemark", deadline=None)
settings.load_profile("tidemark")
