//! Deciding how many replicas to run. All code here is pure: an [`observation::Observation`] with its own time goes in,
//! and a [`table::Recommendation`] with its reason comes out. Nothing reads a clock, a socket or the environment.
//!
//! The law [`slo`] runs a replica as long as the late requests that it saves are worth more than it costs. It learns
//! from each observation (a *tick*), and decides at its interval. The *lead* is the time until a replica that is added
//! now would serve. These are the steps:
//!
//! 1. [`service_times`] measures how long a request keeps a replica busy, and so how long it may wait: the objective
//!    minus the time that a slow answer takes. [`full_speed`] does this for replicas that compute several requests at
//!    once.
//! 2. [`load_filter`] has a probability for each load: the number of replicas that work on average. It learns from the
//!    arrivals since the last tick. It also learns how often the load jumps and to which loads, so it gives the
//!    probabilities until a new replica would serve.
//! 3. [`lateness`] computes how many requests per second are late at each load with 1, 2, 3, … replicas. Weighted by
//!    the probabilities, this gives the late requests that each further replica saves.
//! 4. A late request has a price: the work for 1 ÷ (1 − quantile) requests. The replica n is *worth* the late requests
//!    that it saves per second, times their price. It costs one replica-second per second, so it pays above 1.
//! 5. [`level`] decides for each replica when it starts and when it stops. A worth above 1 adds to its *regret* while
//!    the replica is absent. It starts when the regret has reached a good part of the cost of a start. It stops after
//!    its *hold*: a time without being worth its price, which depends on what its absence has cost before ([`backlog`])
//!    and on whether the load came back.
//! 6. The law recommends the highest replica that is on.
//!
//! The limits then turn the recommended replicas into the desired replicas. They apply bounds, rates and a
//! stabilisation window, keep the replicas that are at work, and respect what the cluster can place.
//!
//! Example: 13 requests/s arrive, a replica takes 100 ms for each (standard deviation 20 ms), and the objective is 500
//! ms with a quantile of 0.99. So 1.3 replicas work on average, a request may wait for 353 ms, and a late request costs
//! 0.1 s ÷ 0.01 = 10 replica-seconds. 25 % of the requests are late with one replica, 0.15 % with two, and hardly any
//! with three. Replica 2 saves 3.2 late requests per second and is worth 32, so it is on. Replica 3 would save one in
//! 50 s and is worth 0.2, so it is off. Then 26 requests/s arrive. Two replicas make 23 % of them late, and three 0.7
//! %. Replica 3 is worth 59, so its regret grows by 58 replica-seconds per second. With a lead of 3.5 s, it
//! starts at a regret of 2.1: at the first decision after the filter has believed in the jump.
//!
//! A program offers its laws in a [`table::Table`]: `scaler` has `slo` and `rate`, and `lab` has those of other
//! autoscalers too. A new law is one file, with a type that implements [`table::Law`] and a [`table::LawKind`], and one
//! line of a table.

pub mod backlog;
pub mod cadence;
pub mod full_speed;
pub mod histogram;
pub mod lateness;
pub mod lead;
pub mod level;
pub mod load_filter;
pub mod observation;
pub mod service_times;
pub mod slo;
pub mod table;
pub mod window;
