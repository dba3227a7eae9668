//! `lab sharing`: compares protocols by which several dispatchers share the same replicas, in virtual time.
//!
//! The simulation differs from the plant of `lab simulate`: messages take time, and there is no law. Arrivals, service
//! times, queues and admission are the same code, and a single dispatcher without a network gives nearly the
//! plant's results.
//! Every second dispatcher gets twice the requests of the others.
//!
//! The figures of a case, each compared with a single dispatcher that gets the same arrivals:
//!
//! - *in time*: the share of all requests that were answered within the objective, and the points *lost* by sharing.
//! - *goodput*: the number of these requests ÷ that of a single dispatcher.
//! - *idle*: the share of all slot-seconds in which a slot holds no request although a request waits at some dispatcher.
//!   A slot that waits for a message counts as idle. A single dispatcher has such times too: a slot is idle while an
//!   answer travels to the dispatcher, and the next request to the replica. *beyond 1* is the difference to that. *stuck*
//!   is the same without one slot for each message on its way.
//! - *busy*: attempts that were answered busy ÷ all attempts. Each has sent a whole body in vain.
//! - *Retry-After*: the sum of the times of all refusals ÷ the sum of the true times. The true time is that until a
//!   request like the refused one would be answered within the objective if no other request came: (requests that wait
//!   at all dispatchers + 1) ÷ the rate of all replicas with full slots + the time in a slot − the objective, at least
//!   zero. The ratio is left out where the true time is below 100 ms on average.
//! - *504*: requests that expired ÷ admitted requests. *died*: requests that died with their dispatcher.
//! - *messages*: messages without a body, in both directions, for each attempt. Answers do not count.

mod case;
mod dispatcher;
mod message;
mod outcome;
mod protocol;
mod replica;
mod system;
mod table;
mod view;

use case::{Case, Fault, HELD_OUT, Load, Service, TRAINING};
use outcome::Outcome;
pub use protocol::Protocol;
use std::time::Duration;
use system::Trial;
use table::Worst;

/// Flags of `lab sharing`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Protocols to compare
    #[arg(long, value_enum, value_delimiter = ',', default_value = "blind,partition,told,probes,claims,board")]
    pub protocols: Vec<Protocol>,
    /// Numbers of dispatchers
    #[arg(long, value_delimiter = ',', default_value = "2,8,32", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub dispatchers: Vec<u16>,
    /// Number of simulations of each case, each with other arrivals and service times
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,
    /// Seed of the first simulation of each case
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..1_000_000_000))]
    pub seed: u64,
    /// Mean time of a message from one machine to another
    #[arg(long, default_value = "500us", value_parser = service::options::positive_duration)]
    pub delay: Duration,
    /// Simulate the cases on which the constants were chosen, rather than the others
    #[arg(long)]
    pub training: bool,
}

/// Runs `lab sharing`: prints a table for each case, and the worst figures of each protocol.
pub fn run(args: &Args) {
    let set = if args.training { TRAINING } else { HELD_OUT };
    let rows = args.protocols.iter().flat_map(|&protocol| args.dispatchers.iter().map(move |&count| (protocol, count)));
    let mut worst: Vec<(Protocol, u16, Worst)> =
        rows.map(|(protocol, count)| (protocol, count, Worst::new(protocol, count))).collect();
    for case in cases(set) {
        println!("\n{case}\n{}", table::HEADINGS);
        let one = total(args, case, Protocol::Blind, 1);
        println!("{}", table::row(Protocol::Blind, 1, &one, &one));
        for (protocol, dispatchers, worst) in &mut worst {
            let outcome = total(args, case, *protocol, *dispatchers);
            println!("{}", table::row(*protocol, *dispatchers, &outcome, &one));
            worst.record(case.load, &outcome, &one);
        }
    }
    println!(
        "\nThe worst figures over all cases; goodput and 504 only with an offered load of 200 %\n{}",
        Worst::HEADINGS
    );
    worst.iter().for_each(|(_, _, worst)| println!("{}", worst.row()));
}

/// The cases with the replicas of a set.
fn cases(set: [(usize, Service); 3]) -> impl Iterator<Item = Case> {
    let loads = [
        (Load::Steady, Fault::None),
        (Load::Burst, Fault::None),
        (Load::Overload, Fault::None),
        (Load::Burst, Fault::DispatcherDies),
        (Load::Burst, Fault::Rollout),
    ];
    let with = move |(replicas, service)| loads.map(|(load, fault)| Case { replicas, service, load, fault });
    set.into_iter().flat_map(with)
}

/// The sums over all seeds.
fn total(args: &Args, case: Case, protocol: Protocol, dispatchers: u16) -> Outcome {
    let mut sum = Outcome::default();
    for seed in args.seed..args.seed + args.seeds {
        let dispatchers = usize::from(dispatchers);
        sum.add(&Trial { case, protocol, dispatchers, delay: args.delay, seed }.run());
    }
    sum
}

#[cfg(test)]
mod tests;
