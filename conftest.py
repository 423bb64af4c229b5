"""What pytest's doctest collection cannot import where Triton is not installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["eru/recurrence/triton/[!_]*.py"]
