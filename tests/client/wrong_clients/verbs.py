"""Clients whose verbs are wrong: what they send, what they return, what they raise."""

import contextlib
import threading

import attrs

from stereos_proto import (
    Ack,
    ConnectionLost,
    GetHealth,
    IncompleteLine,
    Lifecycle,
    LocalProtocolError,
    NotReady,
    OutcomeUnknown,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    SetConfig,
    StereosError,
    UnexpectedReply,
)
from stereos_proto.dialogues import READY_STATES, Send, SendMany, Sleep
from stereos_proto_io import blocking

from . import Client, wrong

# ------------------------------------------------------------------------------------------------ what is sent


@wrong("verbs")
class MountsTheWrongWayRound(Client):
    """`mount` takes the path for the tag."""

    def mount(self, tag, guest_path, fs_type):
        return self.client.mount(guest_path, f"/{tag}", fs_type)


@wrong("verbs")
class MountsOneType(Client):
    """`mount` ignores the type of the file system."""

    def mount(self, tag, guest_path, fs_type):
        return self.client.mount(tag, guest_path, "9p")


@wrong("verbs")
class GivesEveryKeyToAdmin(Client):
    """`inject_ssh_key` ignores its user."""

    def inject_ssh_key(self, user, public_key):
        return self.client.inject_ssh_key("admin", public_key)


@wrong("verbs")
class StripsKeys(Client):
    """`inject_ssh_key` changes the key."""

    def inject_ssh_key(self, user, public_key):
        return self.client.inject_ssh_key(user, public_key.strip())


@wrong("verbs")
class StoresSecretsForAll(Client):
    """`inject_secret` without a mode stores the secret for all to read."""

    def inject_secret(self, name, value):
        return self.client.inject_secret(name, value, 0o644)


@wrong("modes_and_read_only_mounts")
class IgnoresModes(Client):
    """`inject_secret` ignores its mode."""

    def inject_secret(self, name, value, mode=0):
        return self.client.inject_secret(name, value)


@wrong("modes_and_read_only_mounts")
class MountsForWriting(Client):
    """`mount` ignores `read_only`."""

    def mount(self, tag, guest_path, fs_type, read_only=False):
        return self.client.mount(tag, guest_path, fs_type)


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


@wrong("provisioning")
class ProvisionsForWriting(Client):
    """`provision` ignores `read_only` of its mounts."""

    def provision(self, plan, on_step):
        mounts = [attrs.evolve(mount, read_only=False) for mount in plan.mounts]
        plan = ProvisionPlan(mounts, plan.secrets, plan.ssh_keys, plan.config)
        return self.client.provision(plan, on_step=on_step)


@wrong("a_plan_holds_the_config_back")
class ConfigWhateverHappens(Client):
    """`provision` sends the config although a mount was refused."""

    def provision(self, plan):
        return self.client.provision(plan, on_refusal="continue")


@wrong("a_plan_goes_on_after_a_refusal_when_told")
class StopsAtEveryRefusal(Client):
    """`provision` ignores `on_refusal`."""

    def provision(self, plan, on_refusal="stop"):
        return self.client.provision(plan)


@wrong("a_plan_keeps_its_timeout")
class ProvisionsForEver(Client):
    """`provision` ignores its timeout."""

    def provision(self, plan, timeout=None):
        return self.client.provision(plan, timeout=60)


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


@wrong("plans_and_waits_without_time_send_nothing")
class ProvisionsWithoutTime(Client):
    """A timeout of 0 counts as none for `provision`."""

    def provision(self, plan, timeout=None):
        return self.client.provision(plan, timeout=timeout or None)


@wrong("plans_and_waits_without_time_send_nothing")
class LooksWithoutTime(Client):
    """`wait_ready` asks once before it looks at its timeout."""

    def wait_ready(self, timeout=None):
        return self.client.wait_ready(timeout=max(timeout, 1))


@wrong("each_verb_keeps_its_timeout")
class ForgetsThatItSent(Client):
    """The timeout of a verb does not tell that its request was sent."""

    def mount(self, *arguments, timeout=None):
        try:
            return self.client.mount(*arguments, timeout=timeout)
        except RequestTimeout as exc:
            exc.sent = False
            raise


@wrong("each_verb_keeps_its_timeout")
class PingsForEver(Client):
    """`ping` ignores its timeout."""

    def ping(self, timeout=None):
        return self.client.ping()


@wrong("each_verb_keeps_its_timeout")
class FliesForEver(Client):
    """`request_many` ignores its timeout."""

    def request_many(self, messages, timeout=None):
        return self.client.request_many(messages)


@wrong("each_verb_keeps_its_timeout")
class ShutsDownForEver(Client):
    """`shutdown` takes a timeout for the end of the connection."""

    def shutdown(self, reason="", timeout=None):
        try:
            return self.client.shutdown(reason, timeout=timeout)
        except RequestTimeout:
            return None


@wrong("each_verb_keeps_its_timeout")
class ListensForEver(Client):
    """`notifications` ignores its timeout."""

    def notifications(self, timeout=None):
        return self.client.notifications()


@wrong("a_wait_is_for_the_states_that_were_named")
class WaitsForReadyOnly(Client):
    """`wait_ready` ignores its states, and waits on."""

    def wait_ready(self, states=(), timeout=None, **options):
        return self.client.wait_ready(timeout=0.5, **options)


@wrong("a_wait_is_for_no_other_state")
class TakesReadyForAnyState(Client):
    """`wait_ready` ignores its states, and returns early."""

    def wait_ready(self, states=(), **options):
        return self.client.wait_ready(**options)


@wrong("a_wait_is_for_all_agents_that_were_named")
class WaitsForNoAgents(Client):
    """`wait_ready` ignores its agents."""

    def wait_ready(self, agents=(), **options):
        return self.client.wait_ready(**options)


@wrong("a_wait_is_for_all_agents_that_were_named")
class WaitsForOneAgent(Client):
    """`wait_ready` is content with the first of its agents."""

    def wait_ready(self, agents=(), **options):
        return self.client.wait_ready(agents=agents[:1], **options)


@wrong("a_wait_tells_its_progress")
class WaitsInSilence(Client):
    """`wait_ready` does not call `on_progress`."""

    def wait_ready(self, on_progress=None, **options):
        return self.client.wait_ready(**options)


@wrong("a_wait_tells_its_progress")
class TellsTheEndOnly(Client):
    """`wait_ready` calls `on_progress` once, when the guest is ready."""

    def wait_ready(self, on_progress=None, **options):
        seen = []
        health = self.client.wait_ready(on_progress=seen.append, **options)
        on_progress(seen[-1])
        return health


@wrong("a_wait_keeps_to_its_backoff")
class HasABackoffOfItsOwn(Client):
    """`wait_ready` ignores its backoff."""

    def wait_ready(self, backoff=None, **options):
        return self.client.wait_ready(**options)


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


@wrong("each_verb_tells_its_refusal")
class TakesRefusedConfigs(Client):
    """A config that was refused counts as stored."""

    def set_config(self, content):
        try:
            return self.client.set_config(content)
        except RequestFailed:
            return Ack("set_config", True)


@wrong("each_verb_tells_its_refusal")
class BlamesAnotherRequest(Client):
    """RequestFailed names another request than the one that was refused."""

    def mount(self, *arguments):
        try:
            return self.client.mount(*arguments)
        except RequestFailed as exc:
            raise RequestFailed(GetHealth(), exc.error) from None


@wrong("a_refusal_says_which_guest_it_was")
class NamesNoGuest(Client):
    """RequestFailed does not say which guest refused."""

    def request(self, message, **options):
        try:
            return self.client.request(message, **options)
        except RequestFailed as exc:
            raise RequestFailed(exc.request, exc.error) from None


@wrong("health_is_told_whole")
class ForgetsTheUptime(Client):
    """`get_health` drops the uptime."""

    def get_health(self):
        return attrs.evolve(self.client.get_health(), uptime_seconds=0)


@wrong("health_is_told_whole")
class ForgetsWhyAgentsFail(Client):
    """`get_health` drops the errors of agents."""

    def get_health(self):
        health = self.client.get_health()
        return attrs.evolve(health, agents=[attrs.evolve(agent, error="") for agent in health.agents])


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


@wrong("unknown_messages_are_told_as_notifications")
class KnowsLifecycleOnly(Client):
    """Notifications of unknown types are dropped."""

    def notifications(self):
        return (message for message in self.client.notifications() if isinstance(message, Lifecycle))


@wrong("each_notification_goes_to_one_reader")
class TellsEveryReader(Client):
    """Each reader of notifications gets all of them."""

    def __init__(self, address):
        super().__init__(address)
        self.kept = []

    def notifications(self):
        yield from self.kept
        for message in self.client.notifications():
            self.kept.append(message)
            yield message


@wrong("dropped_notifications_are_counted")
class CountsNoLosses(Client):
    """`dropped_notifications` is always 0."""

    dropped_notifications = 0


@wrong("dropped_notifications_are_counted")
class KeepsTheOldest(Client):
    """Of more notifications than are kept, the newest are dropped."""

    dropped_notifications = 3000 - 1024

    def notifications(self):
        return (Lifecycle("degraded", str(number)) for number in range(1024))


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


@wrong("a_secret_that_the_guest_quotes_is_hidden_in_the_report")
class ReportsWhatTheGuestQuotes(Client):
    """The report of `provision` shows the guest's words as they came."""

    def provision(self, plan):
        report = self.client.provision(plan)
        for step in report.failed:
            step.error.error = step.error.error.replace("[redacted]", plan.secrets[0].value)
        return report


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


@wrong("shutdown_that_is_refused")
class TakesRefusedShutdowns(Client):
    """A shutdown that was refused counts as one whose ack was lost."""

    def shutdown(self, reason=""):
        try:
            return self.client.shutdown(reason)
        except RequestFailed:
            return None


@wrong("shutdown_after_the_end")
class TakesAnyEndForAShutdown(Client):
    """A shutdown that was never sent counts as one whose ack was lost."""

    def shutdown(self, reason=""):
        try:
            return self.client.shutdown(reason)
        except ConnectionLost:
            return None


@wrong("a_plan_whose_guest_goes")
class LosesTheReport(Client):
    """`provision` raises when the guest goes, and its report is lost."""

    def provision(self, plan):
        report = self.client.provision(plan)
        report.raise_for_failure()
        return report


@wrong("closing_ends_a_plan_with_its_report")
class LosesTheReportOfAClosedClient(Client):
    """`provision` raises when the client is closed, and its report is lost."""

    def provision(self, plan):
        report = self.client.provision(plan)
        if self.client._session.closed:
            raise ConnectionLost("it was closed")
        return report


@wrong("closing_makes_a_shutdown_unknown")
class TakesItsOwnEndForAShutdown(Client):
    """A shutdown whose client was closed counts as one whose ack was lost."""

    def shutdown(self, reason=""):
        try:
            return self.client.shutdown(reason)
        except OutcomeUnknown:
            return None


@wrong("a_lost_flight_tells_its_first_loss")
class TellsTheLastLoss(Client):
    """`request_many` raises for the last request that has no reply."""

    def request_many(self, messages):
        try:
            return self.client.request_many(messages)
        except OutcomeUnknown as exc:
            exc.request = messages[-1]
            raise


@wrong("what_on_step_raises_comes_out")
class SwallowsMistakes(Client):
    """`provision` ignores what `on_step` raises."""

    def provision(self, plan, on_step):
        report = self.client.provision(plan)
        for step in report.steps:
            with contextlib.suppress(Exception):
                on_step(step)
        return report


@wrong("a_plan_after_the_end")
class ReportsOnNothing(Client):
    """`provision` returns a report although the connection had ended before."""

    def provision(self, plan):
        try:
            return self.client.provision(plan)
        except ConnectionLost as exc:
            return ProvisionReport([ProvisionStep.of(request, exc) for request in plan.requests])


@wrong("a_wait_ends_when_the_guest_shuts_down")
class WaitsForTheDead(Client):
    """`wait_ready` waits on when the guest shuts down."""

    def wait_ready(self, timeout=None):
        return self.client.wait_ready([*READY_STATES, "shutdown"], agents=["never"], timeout=timeout)


@wrong("a_wait_for_a_guest_without_health_ends")
class WaitsForAnOldGuest(Client):
    """`wait_ready` waits on for a guest that knows no health reports."""

    def wait_ready(self, timeout=None):
        while True:
            try:
                return self.client.wait_ready(timeout=timeout)
            except NotReady:
                threading.Event().wait(0.02)


@wrong("a_wait_goes_on_after_a_refusal")
class GivesUpAfterARefusal(Client):
    """`wait_ready` gives up when the guest refuses to tell its health."""

    def wait_ready(self, timeout=None):
        self.client.get_health()
        return self.client.wait_ready(timeout=timeout)


@wrong("a_wait_ends_with_the_connection")
class WaitsForTheLost(Client):
    """`wait_ready` reports a lost connection as a guest that is not ready."""

    def wait_ready(self, timeout=None):
        try:
            return self.client.wait_ready(timeout=timeout)
        except ConnectionLost as exc:
            raise NotReady(str(exc)) from exc


@wrong("a_wait_for_what_is_no_guest_ends")
class WaitsForAnotherProtocol(Client):
    """`wait_ready` reports what is no guest as a guest that is not ready."""

    def wait_ready(self, timeout=None):
        try:
            return self.client.wait_ready(timeout=timeout)
        except RemoteProtocolError as exc:
            raise NotReady(str(exc)) from exc


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
