//! The outcome of a request, and the verdict on it that an objective for the service counts. Pure: knows nothing of
//! counters or of HTTP.

use service::wire::Code;
use std::time::Duration;

/// The part of the objective within which a client that leaves has not waited for the service: a tenth. A client that
/// leaves sooner has got its answer elsewhere, or its user has moved on, since it cannot expect an answer that fast. If
/// all who leave within the objective were left out, clients that give up shortly before it would hide an outage.
const UNCOUNTED_PART: u32 = 10;

/// The way in which a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The image was classified.
    Classified,
    /// The request was refused, or has failed.
    Failed(Code),
    /// A replica answered with an error whose code this dispatcher does not know.
    Unknown {
        /// The status of the answer.
        status: u16,
    },
    /// The client left before the answer.
    ClientGone,
}

impl Outcome {
    /// The outcome of an answer with this `status` and an error body whose code is `code`. A replica may send any text,
    /// and each text would otherwise become a time series of its own.
    pub fn of_code(code: &str, status: u16) -> Self {
        Code::parse(code).map_or(Self::Unknown { status }, Self::Failed)
    }

    /// The outcome of an answer with this `status` and an error body without a code, as the Open Inference Protocol has
    /// it.
    pub fn of_status(status: u16) -> Self {
        Code::of_status(status).map_or(Self::Unknown { status }, Self::Failed)
    }

    /// The value of the label `code` of `dispatcher_requests_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classified => "ok",
            Self::Failed(code) => code.as_str(),
            Self::Unknown { .. } => "unknown",
            Self::ClientGone => "client_gone",
        }
    }

    /// The verdict on a request that ended by this outcome, `elapsed` after it was accepted. `elapsed` is zero if it never
    /// was, for example because the client left during the upload.
    pub fn verdict(self, elapsed: Duration, objective: Duration) -> Verdict {
        let in_time = elapsed <= objective;
        match self {
            Self::Classified if in_time => Verdict::Good,
            Self::Classified => Verdict::Late,
            Self::ClientGone if elapsed < objective / UNCOUNTED_PART => Verdict::Cancelled,
            Self::ClientGone => Verdict::GaveUp,
            Self::Failed(Code::QueueFull | Code::Overloaded) => Verdict::Shed,
            Self::Failed(Code::Poison) => Verdict::Failed,
            Self::Failed(code) => Verdict::of_error(code.status()),
            Self::Unknown { status } => Verdict::of_error(status),
        }
    }
}

/// The verdict on a request: whether it counts for or against an objective of the service. [`Verdict::Good`] counts for
/// it. [`Verdict::Refused`] and [`Verdict::Cancelled`] do not count. All others count against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The image was classified within the objective.
    Good,
    /// The image was classified after the objective.
    Late,
    /// The service failed: no replica answered in time, or an attempt failed and could not be repeated.
    Failed,
    /// The request was refused at admission, because it would not have been answered in time.
    Shed,
    /// The request was not one that the service answers: malformed, too large, or without a valid token.
    Refused,
    /// The client waited for at least a tenth of the objective, and left without an answer.
    GaveUp,
    /// The client left within a tenth of the objective, or before its whole request had arrived.
    Cancelled,
}

impl Verdict {
    /// Every verdict, in the order of the enum.
    pub const ALL: [Self; 7] =
        [Self::Good, Self::Late, Self::Failed, Self::Shed, Self::Refused, Self::GaveUp, Self::Cancelled];

    /// The verdict on an answer with the error status `status`.
    fn of_error(status: u16) -> Self {
        if status < 500 { Self::Refused } else { Self::Failed }
    }

    /// The value of the label `verdict`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Late => "late",
            Self::Failed => "failed",
            Self::Shed => "shed",
            Self::Refused => "refused",
            Self::GaveUp => "gave_up",
            Self::Cancelled => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objective_counts_what_the_service_could_have_answered() {
        let objective = Duration::from_millis(500);
        let (in_time, late) = (objective, objective + Duration::from_nanos(1));
        let waited = Duration::from_millis(50);
        for (outcome, elapsed, expected) in [
            (Outcome::Classified, in_time, Verdict::Good),
            (Outcome::Classified, late, Verdict::Late),
            (Outcome::ClientGone, Duration::ZERO, Verdict::Cancelled),
            (Outcome::ClientGone, waited - Duration::from_nanos(1), Verdict::Cancelled),
            (Outcome::ClientGone, waited, Verdict::GaveUp),
            (Outcome::ClientGone, in_time, Verdict::GaveUp),
            (Outcome::ClientGone, late, Verdict::GaveUp),
            (Outcome::Failed(Code::Overloaded), in_time, Verdict::Shed),
            (Outcome::Failed(Code::QueueFull), in_time, Verdict::Shed),
            (Outcome::Failed(Code::BadImage), late, Verdict::Refused),
            (Outcome::Failed(Code::SlowBody), late, Verdict::Refused),
            (Outcome::Failed(Code::DeadlineExceeded), late, Verdict::Failed),
            (Outcome::Failed(Code::ReplicaFailed), in_time, Verdict::Failed),
            (Outcome::Failed(Code::Poison), in_time, Verdict::Failed),
            (Outcome::Unknown { status: 400 }, in_time, Verdict::Refused),
            (Outcome::Unknown { status: 504 }, late, Verdict::Failed),
            (Outcome::of_status(418), in_time, Verdict::Refused),
            (Outcome::of_status(504), late, Verdict::Failed),
        ] {
            assert_eq!(outcome.verdict(elapsed, objective), expected, "{outcome:?} after {elapsed:?}");
        }
    }

    #[test]
    fn a_code_that_no_program_of_this_version_writes_is_unknown() {
        assert_eq!(Outcome::of_code("bad_image", 400), Outcome::Failed(Code::BadImage));
        for text in ["", "teapot", "Bad_Image", "ok", &"x".repeat(1 << 20)] {
            assert_eq!(Outcome::of_code(text, 400), Outcome::Unknown { status: 400 });
        }
    }
}
