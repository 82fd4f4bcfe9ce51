"""Clients on a session that is wrong: places in line, bytes, and what is said of each request."""

import re

from stereos_proto import (
    Ack,
    CallDone,
    Connection,
    ConnectionLost,
    HostSession,
    LocalProtocolError,
    RequestTimeout,
    UnknownReceived,
)

from . import ASYNCIO, Client, wrong

# ------------------------------------------------------------------------------------------------------ given up


@wrong("those_who_give_up_shift_no_reply")
def takes_callers_out_of_line(patch):
    """A caller that gives up is taken out of line, although its reply will come."""
    give_up = HostSession._give_up

    def changed(self, call, when):
        give_up(self, call, when)
        if call in self._in_flight:
            self._in_flight.remove(call)

    patch.setattr(HostSession, "_give_up", changed)


@wrong("a_line_is_finished_when_its_caller_gives_up")
def drops_half_a_line(patch):
    """The unwritten half of a line is dropped when its caller gives up."""
    give_up = HostSession._give_up

    def changed(self, call, when):
        give_up(self, call, when)
        if call.sent and not self.is_written(call):
            self._outgoing, self._queued = b"", self._written

    patch.setattr(HostSession, "_give_up", changed)


@wrong("what_was_given_up_before_a_byte_was_out_is_not_sent")
def sends_what_was_given_up(patch):
    """A request that was given up before it was written is written all the same."""

    def changed(self, call, when):
        call.outcome = RequestTimeout("too late", request=call.request, sent=call.sent)

    patch.setattr(HostSession, "_give_up", changed)


@wrong("a_timeout_tells_whether_its_request_was_sent")
def says_never_that_it_was_sent(patch):
    """`RequestTimeout.sent` is always False."""
    _sent(patch, False)


@wrong("a_timeout_tells_whether_its_request_was_sent")
def says_always_that_it_was_sent(patch):
    """`RequestTimeout.sent` is always True."""
    _sent(patch, True)


@wrong("a_flight_that_is_too_late_tells_what_was_sent")
def counts_a_flight_as_sent(patch):
    """All requests of a flight count as sent once one of them is."""
    _sent(patch, True)


def _sent(patch, sent):
    give_up = HostSession._give_up

    def changed(self, call, when):
        give_up(self, call, when)
        call.outcome.sent = sent

    patch.setattr(HostSession, "_give_up", changed)


@wrong("a_step_of_a_dialogue_that_gives_up_keeps_its_place")
def closes_when_a_caller_gives_up(patch):
    """The connection is closed when a caller gives up."""
    give_up = HostSession._give_up

    def changed(self, call, when):
        give_up(self, call, when)
        self.close()

    patch.setattr(HostSession, "_give_up", changed)


# --------------------------------------------------------------------------------------------------------- bytes


@wrong("a_line_is_finished_when_its_caller_gives_up")
def begins_a_line_again(patch):
    """After a write that took a part of a line, the whole line is written again."""
    sent = HostSession.data_sent

    def changed(self, size):
        if size == len(self.data_to_send()):
            sent(self, size)

    patch.setattr(HostSession, "data_sent", changed)


@wrong("a_line_is_finished_when_its_caller_gives_up")
def counts_what_was_not_written(patch):
    """A write that took a part of a line counts as the whole line."""
    sent = HostSession.data_sent

    def changed(self, size):
        sent(self, len(self.data_to_send()) if size else 0)

    patch.setattr(HostSession, "data_sent", changed)


@wrong("replies_in_single_bytes")
def takes_a_read_for_a_line(patch):
    """Every read counts as a whole line."""
    receive = HostSession.receive_data

    def changed(self, data):
        receive(self, bytes(data) if bytes(data).endswith(b"\n") else bytes(data) + b"\n")

    patch.setattr(HostSession, "receive_data", changed)


@wrong("a_reply_without_its_newline_counts_at_the_end")
def needs_the_last_newline(patch):
    """The last line does not count without its newline."""
    patch.setattr(HostSession, "receive_eof", lambda self: self.read_failed(OSError("end of file")))


@wrong("a_line_that_is_too_long_ends_it")
def reads_lines_of_any_length(patch):
    """A line may be as long as it likes."""
    make = Connection.__init__

    def changed(self, our_role, **limits):
        make(self, our_role, **{**limits, "max_line_size": 1 << 30})

    patch.setattr(Connection, "__init__", changed)


@wrong("a_refused_key_harms_nothing")
def dies_of_a_bad_message(patch):
    """A message that cannot be sent ends the session."""
    request = HostSession.request

    def changed(self, message, **options):
        try:
            return request(self, message, **options)
        except LocalProtocolError:
            self.close()
            raise

    patch.setattr(HostSession, "request", changed)


# ------------------------------------------------------------------------------------------------------- replies


@wrong("unknown_messages_are_no_replies")
def takes_unknown_messages_for_replies(patch):
    """A message of an unknown type settles the oldest call."""
    next_event = HostSession.next_event

    def changed(self):
        event = next_event(self)
        if isinstance(event, UnknownReceived) and self._in_flight:
            call = self._in_flight.popleft()
            call.outcome = Ack(call.request.type, True)
            return CallDone(call)
        return event

    patch.setattr(HostSession, "next_event", changed)


@wrong("a_reply_that_was_not_asked_for_is_no_reply")
class KeepsStrayReplies(Client):
    """A reply that was not asked for answers the next request."""

    reply = None

    def request(self, message, **options):
        if self.reply is None:
            self.reply = self.client.request(message, **options)
        return self.reply


@wrong("empty_lines")
def reads_empty_lines(patch):
    """An empty line is taken for a message."""
    receive = HostSession.receive_data

    def changed(self, data):
        receive(self, re.sub(rb"(?m)^\r?\n", b"empty\n", data))

    patch.setattr(HostSession, "receive_data", changed)


# -------------------------------------------------------------------------------------- what became of requests


@wrong("an_ack_cut_after_15_bytes")
def reports_incomplete_lines(patch):
    """A change whose ack is cut ends in IncompleteLine."""
    patch.setattr(HostSession, "_broke_off", lambda _self, error: error)


@wrong("a_health_report_cut_after_1_bytes", ASYNCIO)
def reports_incomplete_lines_on_asyncio(patch):
    """A question whose reply is cut ends in IncompleteLine."""
    patch.setattr(HostSession, "_broke_off", lambda _self, error: error)


@wrong("what_was_not_sent_is_told_apart_from_what_was")
def never_sent_is_unknown(patch):
    """A request that was never sent is reported as OutcomeUnknown."""
    patch.setattr(HostSession, "_not_sent", lambda self, request: self._unanswered(request, (request,)))


@wrong("an_ack_cut_after_0_bytes")
def a_lost_change_is_merely_lost(patch):
    """A change whose reply was lost is reported as ConnectionLost."""
    patch.setattr(HostSession, "_unanswered", lambda _self, _request, all_: ConnectionLost("lost", unanswered=all_))


@wrong("a_lost_change_is_unknown_when_others_wait_too")
def a_lost_change_among_others_is_merely_lost(patch):
    """A change whose reply was lost is reported as ConnectionLost when others wait, too."""
    _lost_among_others(patch)


@wrong("the_lost_of_one_flight_are_told_apart", ASYNCIO)
def a_lost_change_in_a_flight_is_merely_lost(patch):
    """A change whose reply was lost is reported as ConnectionLost when it was one of a flight."""
    _lost_among_others(patch)


def _lost_among_others(patch):
    unanswered = HostSession._unanswered

    def changed(self, request, all_):
        return unanswered(self, request, all_) if len(all_) == 1 else ConnectionLost("lost", unanswered=all_)

    patch.setattr(HostSession, "_unanswered", changed)


@wrong("nothing_is_sent_after_a_write_that_failed")
def ignores_write_errors(patch):
    """An error while writing is ignored."""
    patch.setattr(HostSession, "write_failed", lambda _self, _cause: None)


@wrong("a_write_that_fails_is_noticed")
def waits_for_what_was_not_written(patch):
    """After a write that failed, requests that were not written stay in line."""

    def changed(self, cause):
        self._write_error = cause
        self._outgoing, self._queued = b"", self._written

    patch.setattr(HostSession, "write_failed", changed)
