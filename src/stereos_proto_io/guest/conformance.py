"""The older name of `stereos_proto_io.conformance`, for the suite that examines guests."""

from stereos_proto_io.conformance import CASES, Case, Deviation, Need, Outcome, Report, Result, run

__all__ = ["CASES", "Case", "Deviation", "Need", "Outcome", "Report", "Result", "run"]
