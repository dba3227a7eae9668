//! Deciding how many replicas to run. Pure: an [`observation::Observation`] with its own time goes in, a
//! [`table::Recommendation`] with its reason comes out. Nothing here reads a clock, a socket or the environment.
//!
//! The law [`slo`] finds the fewest replicas that hold the latency objective. At each decision:
//!
//! 1. [`arrivals`]: how many requests arrive per second? The mean over the longest window, of 0.5 to 120 s, that no
//!    shorter window contradicts: a long memory while nothing changes, a short one after a change.
//! 2. [`queueing`]: how many replicas does that take? The service time is measured. The objective minus the time that a
//!    replica needs for a request is the longest wait. Erlang's formula gives the share of requests that wait longer with
//!    n replicas; the fewest replicas with a small enough share are *needed*.
//! 3. A sudden rise may go on while a new replica starts. So many replicas as the extrapolated rate takes are *foreseen*.
//! 4. If more requests wait than the replicas work off until a new one would serve, enough replicas to work them off
//!    within two seconds are *draining*.
//! 5. The law scales down only when fewer replicas are needed beyond doubt: *doubtful* replicas would be needed at a rate
//!    that is 15 % and two standard deviations higher. And [`retention`] has *kept* what was needed lately, longer where the
//!    load has come back before.
//! 6. The recommendation is the highest of these. A rise that turns out to have been chance raises the number of standard
//!    deviations that counts as sudden; a real one lowers it again.
//!
//! [`limits`] then make of the recommended replicas the desired ones: bounds, rates, a stabilisation window, never fewer
//! replicas than are at work, and never more than the cluster can place ([`limits::ceiling`]).
//!
//! Example: 13 requests/s of 100 ms each, 99 % of them within 500 ms, so that a request may wait 400 ms. One replica
//! serves 10/s. With two, 13/s × 0.1 s = 1.3 of them are busy on average; 51 % of the requests wait at all, and
//! 51 % · e^(−2 · 7/s · 0.4 s) = 0.2 % wait longer than 400 ms. Two replicas are needed.
//!
//! A program offers its laws in a [`table::Table`]: `scaler` has `slo` and `rate`, `lab` has what other autoscalers do.
//! A new law is one file, with a type that implements [`table::Law`] and a [`table::Kind`], and one line of a table.

pub mod arrivals;
pub mod cadence;
pub mod histogram;
pub mod limits;
pub mod observation;
pub mod queueing;
pub mod retention;
pub mod slo;
pub mod table;
pub mod window;
