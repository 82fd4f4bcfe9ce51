"""What `--json` and `--jsonl` print, as plain dicts. docs/cli-json-schema.json describes them."""

from __future__ import annotations

from typing import Any

from stereos_proto import (
    Ack,
    AgentStatus,
    Health,
    Lifecycle,
    Message,
    Pong,
    ProvisionReport,
    ProvisionStep,
    StepStatus,
    StereosError,
    UnknownMessage,
)

from ._errors import error_document
from ._numbers import writable

Document = dict[str, Any]


def agent_document(agent: AgentStatus) -> Document:
    """One agent."""
    return {
        "name": agent.name,
        "running": agent.running,
        "session": agent.session,
        "restarts": agent.restarts,
        "error": agent.error,
    }


def health_document(health: Health) -> Document:
    """A health report."""
    return {
        "state": str(health.state),
        "uptime_seconds": health.uptime_seconds,
        "agents": [agent_document(agent) for agent in health.agents],
    }


def message_document(message: Message) -> Document:
    """What a guest sent: a reply or a notification."""
    match message:
        case Health():
            return {"type": "health", **health_document(message)}
        case Ack(reply_to=reply_to, ok=ok, error=error):
            return {"type": "ack", "reply_to": reply_to, "ok": ok, "error": error}
        case Lifecycle(state=state, message=text):
            return {"type": "lifecycle", "state": str(state), "message": text}
        case UnknownMessage(type=type_, payload=payload):
            return {"type": type_, "payload": writable(payload)}
        case Pong() | _:
            return {"type": message.type}


def step_document(step: ProvisionStep) -> Document:
    """One step of a provisioning."""
    error = error_document(step.error if isinstance(step.error, StereosError) else None)
    if error is not None and step.status is StepStatus.NOT_SENT:
        # Whatever the error is of: this request had not left.
        error["sent"] = False
    return {"request": step.request.type, "label": step.label, "status": step.status.value, "error": error}


def report_document(report: ProvisionReport) -> Document:
    """A provisioning."""
    return {"ok": report.ok, "steps": [step_document(step) for step in report.steps]}
