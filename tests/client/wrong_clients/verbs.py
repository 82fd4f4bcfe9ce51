"""Clients whose verbs are wrong: what they send, what they return, what they raise."""

import threading

from stereos_proto import (
    Ack,
    ConnectionLost,
    GetHealth,
    IncompleteLine,
    LocalProtocolError,
    OutcomeUnknown,
    ProvisionReport,
    RequestFailed,
    RequestTimeout,
    SetConfig,
    StereosError,
    UnexpectedReply,
)
from stereos_proto.dialogues import Send, SendMany, Sleep
from stereos_proto_io import blocking

from . import Client, wrong

# ------------------------------------------------------------------------------------------------ what is sent


@wrong("verbs")
class MountsTheWrongWayRound(Client):
    """`mount` takes the path for the tag."""

    def mount(self, tag, guest_path, fs_type):
        return self.client.mount(guest_path, f"/{tag}", fs_type)


@wrong("shutdown")
class GivesNoReason(Client):
    """`shutdown` does not send its reason."""

    def shutdown(self, reason=""):
        return self.client.shutdown()


@wrong("a_flight_goes_out_without_waiting_for_replies")
class SendsOneByOne(Client):
    """`request_many` waits for each reply before it sends the next request."""

    def request_many(self, messages):
        return [reply for message in messages for reply in self.client.request_many([message])]


@wrong("what_cannot_be_sent")
class SendsWhatComesBefore(Client):
    """`request_many` sends the good messages before one that cannot be sent."""

    def request_many(self, messages):
        try:
            return self.client.request_many(messages)
        except LocalProtocolError:
            self.client.request_many(list(messages)[:1])
            raise


@wrong("guest_goes_while_a_change_is_open")
class MountsAgain(Client):
    """A mount whose reply was lost is sent again over a new connection."""

    def mount(self, *arguments):
        try:
            return self.client.mount(*arguments)
        except OutcomeUnknown:
            self.client.close()
            self.client = blocking.connect(self.address)
            return self.client.mount(*arguments)


@wrong("nothing_is_sent_after_the_end")
class DialsAgain(Client):
    """Every request dials again when the connection has ended."""

    def request(self, message, **options):
        try:
            return self.client.request(message, **options)
        except ConnectionLost:
            self.client.close()
            self.client = blocking.connect(self.address)
            return self.client.request(message, **options)


@wrong("provisioning")
class ConfigFirst(Client):
    """`provision` sends the config before the mounts."""

    def provision(self, plan, on_step):
        self.client.request(SetConfig(plan.config))
        return self.client.provision(plan, on_step=on_step)


@wrong("callers_do_not_wait_for_one_another")
class OneAtATime(Client):
    """One request of one caller is under way at a time."""

    def __init__(self, address):
        super().__init__(address)
        self.lock = threading.Lock()

    def request(self, message, **options):
        with self.lock:
            return self.client.request(message, **options)


@wrong("late_reply_is_swallowed")
class HasNoDeadline(Client):
    """`request` takes a timeout and ignores it."""

    def request(self, message, timeout=None):
        return self.client.request(message)


@wrong("a_wait_keeps_its_timeout")
class WaitsForEver(Client):
    """`wait_ready` ignores its timeout."""

    def wait_ready(self, timeout=None, **options):
        return self.client.wait_ready(timeout=60, **options)


@wrong("a_wait_goes_on_until_the_guest_is_ready")
class WaitsForAnyAnswer(Client):
    """`wait_ready` is content with a guest that boots."""

    def wait_ready(self, timeout=None, **options):
        return self.client.get_health()


@wrong("without_time_nothing_is_sent")
class TakesNoTimeForEver(Client):
    """A timeout of 0 counts as none."""

    def run(self, dialogue, timeout=None):
        return self.client.run(dialogue, timeout=timeout or None)


# -------------------------------------------------------------------------------------------- the replies


@wrong("pipeline_beyond_the_bound")
class MixesReplies(Client):
    """`request_many` returns the replies backwards."""

    def request_many(self, messages):
        return self.client.request_many(messages)[::-1]


@wrong("pipeline_beyond_the_bound")
class LimitsFlights(Client):
    """`request_many` sends as many requests as may be in flight, and forgets the rest."""

    def request_many(self, messages):
        return self.client.request_many(list(messages)[:128])


@wrong("pipeline_beyond_the_bound")
class RefusesLongFlights(Client):
    """`request_many` refuses more requests than may be in flight."""

    def request_many(self, messages):
        if len(messages) > 128:
            raise LocalProtocolError("too many requests")
        return self.client.request_many(messages)


@wrong("empty_pipeline")
class WaitsForNoReply(Client):
    """`request_many` without requests sends a request nevertheless."""

    def request_many(self, messages):
        return self.client.request_many(messages or [GetHealth()])


@wrong("refusal")
class TakesRefusals(Client):
    """A refusal is returned, not raised."""

    def inject_secret(self, name, value):
        try:
            return self.client.inject_secret(name, value)
        except RequestFailed as exc:
            return Ack("inject_secret", False, exc.error)


@wrong("wrong_reply")
class TakesAnyReply(Client):
    """A reply of the wrong type counts as an ack."""

    def inject_secret(self, name, value):
        try:
            return self.client.inject_secret(name, value)
        except UnexpectedReply:
            return Ack("inject_secret", True)


@wrong("late_reply_is_swallowed")
class KeepsNoPlace(Client):
    """After a deadline the next caller gets the late reply, as in the reference (§7, fault 2)."""

    late = None

    def request(self, message, timeout=None):
        if self.late:
            self.late, message = message, self.late
            return self.client.request(message)
        try:
            return self.client.request(message, timeout=timeout)
        except RequestTimeout:
            self.late = message
            raise


@wrong("provisioning")
class ReportsBackwards(Client):
    """`provision` tells the steps in the wrong order."""

    def provision(self, plan, on_step):
        report = self.client.provision(plan)
        for step in reversed(report.steps):
            on_step(step)
        return report


@wrong("provisioning")
class ReportsLess(Client):
    """The report of `provision` lacks what was refused."""

    def provision(self, plan, on_step):
        report = self.client.provision(plan, on_step=on_step)
        return ProvisionReport(tuple(step for step in report.steps if step.status.value == "done"))


@wrong("notifications_do_not_shift_replies")
class LosesNews(Client):
    """Notifications are dropped."""

    def notifications(self):
        return iter(())


@wrong("notifications_end_with_the_guest")
class TakesEndsForClosing(Client):
    """Notifications end without an error when the guest goes away."""

    def notifications(self):
        try:
            yield from self.client.notifications()
        except ConnectionLost:
            return


@wrong("own_end")
class TakesClosingForAnEnd(Client):
    """Notifications end with an error when the client is closed."""

    def notifications(self):
        yield from self.client.notifications()
        raise ConnectionLost("the connection was closed")


# ---------------------------------------------------------------------------------------------- what is raised


@wrong("refusal")
class TellsSecrets(Client):
    """The error shows the secret."""

    def inject_secret(self, name, value):
        try:
            return self.client.inject_secret(name, value)
        except RequestFailed as exc:
            # The error itself would redact it.
            exc.args = (f"must be a simple filename: {name}={value}",)
            raise


@wrong("a_secret_that_the_guest_quotes_is_hidden")
class PassesOnWhatTheGuestQuotes(Client):
    """The guest's words are shown as they came."""

    def inject_secret(self, name, value):
        try:
            return self.client.inject_secret(name, value)
        except RequestFailed as exc:
            exc.args = (exc.request, exc.error.replace("[redacted]", value))
            raise


@wrong("guest_goes_while_a_change_is_open")
class KnowsTheOutcome(Client):
    """A change whose reply was lost is reported as not carried out."""

    def mount(self, *arguments):
        try:
            return self.client.mount(*arguments)
        except OutcomeUnknown as exc:
            raise ConnectionLost(str(exc), unanswered=exc.unanswered) from None


@wrong("guest_goes_while_a_change_is_open")
class NamesNoRequest(Client):
    """OutcomeUnknown does not say which request it is about."""

    def mount(self, *arguments):
        try:
            return self.client.mount(*arguments)
        except OutcomeUnknown as exc:
            exc.request = None
            raise


@wrong("guest_goes_while_a_question_is_open")
class NothingIsUnanswered(Client):
    """ConnectionLost does not say what was unanswered."""

    def request(self, message, **options):
        try:
            return self.client.request(message, **options)
        except ConnectionLost as exc:
            exc.unanswered = ()
            raise


@wrong("shutdown_whose_ack_is_lost")
class NeedsTheLastAck(Client):
    """`shutdown` fails when the guest goes before its ack."""

    def shutdown(self, reason=""):
        ack = self.client.shutdown(reason)
        if ack is None:
            raise ConnectionLost("there was no ack")
        return ack


@wrong("garbage")
class HidesTheCause(Client):
    """Every protocol error of the guest is reported as a lost connection."""

    def request(self, message, **options):
        try:
            return self.client.request(message, **options)
        except StereosError as exc:
            raise ConnectionLost("something went wrong") from exc


@wrong("garbage")
class LetsSystemErrorsOut(Client):
    """After the end of the connection, the operating system's error is raised."""

    def request(self, message, **options):
        try:
            return self.client.request(message, **options)
        except ConnectionLost as exc:
            raise OSError(str(exc)) from exc


@wrong("a_health_report_cut_after_30_bytes")
class CutLinesAreMalformed(Client):
    """A line that is cut by the end of the connection is reported as a line that cannot be read."""

    def request(self, message, **options):
        try:
            return self.client.request(message, **options)
        except ConnectionLost as exc:
            raise (exc.__cause__ if isinstance(exc.__cause__, IncompleteLine) else exc) from None


@wrong("own_end")
class ClosesOnce(Client):
    """Closing twice is an error."""

    def close(self):
        if self.client._session.ended:
            raise ValueError("it is closed already")
        self.client.close()


# ------------------------------------------------------------------------------------------------- a loop of its own

#: Dialogues that are never closed.
KEPT = []


class RunsDialoguesItself(Client):
    """It carries dialogues out with a loop of its own. `tells_errors`: whether it throws them in."""

    tells_errors = True

    def run(self, dialogue, timeout=None):
        KEPT.append(dialogue)
        action = next(dialogue)
        while True:
            try:
                value, error = self.perform(action, timeout), None
            except ConnectionLost as exc:
                value, error = None, exc
                if not self.tells_errors:
                    raise
            try:
                action = dialogue.throw(error) if error else dialogue.send(value)
            except StopIteration as stop:
                return stop.value

    def perform(self, action, timeout):
        if isinstance(action, Sleep):
            return self.sleep(action.seconds)
        if isinstance(action, SendMany):
            return self.client.request_many(action.messages)
        assert isinstance(action, Send)
        return self.client.request(action.message, timeout=action.timeout or timeout)

    def sleep(self, seconds):
        threading.Event().wait(seconds)


@wrong("a_dialogue_is_closed_when_its_time_is_up")
class LeavesDialoguesOpen(RunsDialoguesItself):
    """A dialogue whose time is up is neither told nor closed."""


@wrong("errors_are_thrown_into_a_dialogue")
class KeepsErrorsFromDialogues(RunsDialoguesItself):
    """An error ends the dialogue instead of being thrown into it."""

    tells_errors = False


@wrong("the_time_of_a_dialogue_bounds_its_sleep")
class SleepsOn(RunsDialoguesItself):
    """A sleep is not cut short by the time of the dialogue."""
