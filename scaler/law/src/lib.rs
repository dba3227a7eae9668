//! Deciding how many replicas to run. All code here is pure: an [`observation::Observation`] with its own time goes in,
//! and a [`table::Recommendation`] with its reason comes out. Nothing reads a clock, a socket or the environment.
//!
//! The law [`slo`] finds the fewest replicas that hold the latency objective. Each decision has these steps:
//!
//! 1. [`arrivals`] measures how many requests arrive per second. It takes the mean over the longest window, of 0.5 to
//!    120 s, that no shorter window contradicts: a long window while nothing changes, and a short one after a change.
//! 2. [`queueing`] computes how many replicas that rate takes. The service time is measured. A request may wait for the
//!    objective minus the time that a replica needs for it. Erlang's formula gives the share of requests that wait
//!    longer with n replicas. The fewest replicas with a small enough share are *needed*.
//! 3. A sudden rise may go on while a new replica starts. The replicas for the extrapolated rate are *foreseen*.
//! 4. Requests may wait that the replicas cannot work off before a new one would serve. Then the replicas that work
//!    them off within two more seconds are *draining*.
//! 5. The law scales down only if fewer replicas suffice beyond doubt. Present replicas that would be needed at a rate
//!    that is 15 % and two standard deviations higher are *doubtful* and stay. Replicas that were needed lately are
//!    *kept* by [`retention`], longer if the load has come back before.
//! 6. The law recommends the highest of these numbers. A rise that turns out to be chance raises the number of standard
//!    deviations from which a rise counts as sudden. A rise that turns out to be real lowers that number again.
//!
//! [`limits`] then turn the recommended replicas into the desired replicas. They apply bounds, rates and a
//! stabilisation window, keep the replicas that are at work, and respect what the cluster can place
//! ([`limits::ceiling`]).
//!
//! Example: 13 requests/s arrive, a replica takes 100 ms for each, and 99 % should be answered within 500 ms. So a
//! request may wait for 400 ms. One replica serves only 10/s. With two replicas, 13/s × 0.1 s = 1.3 are busy on
//! average. 51 % of the requests wait at all, and 51 % · e^(−2 · 7/s · 0.4 s) = 0.2 % wait longer than 400 ms. Two
//! replicas are needed.
//!
//! A program offers its laws in a [`table::Table`]: `scaler` has `slo` and `rate`, and `lab` has those of other
//! autoscalers too. A new law is one file, with a type that implements [`table::Law`] and a [`table::LawKind`], and one
//! line of a table.

pub mod backlog;
pub mod cadence;
pub mod histogram;
pub mod lateness;
pub mod level;
pub mod load_filter;
pub mod observation;
pub mod service_times;
pub mod slo;
pub mod table;
pub mod window;
