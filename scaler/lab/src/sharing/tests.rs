//! Tests of the simulation of several dispatchers.

use super::case::{Case, Fault, Load, Service, TRAINING};
use super::message::{Note, ToDispatcher, ToReplica};
use super::outcome::Outcome;
use super::protocol::Protocol;
use super::replica::Replica;
use super::system::{DEADLINE, OBJECTIVE, Trial};
use crate::simulate::plant::Plant;
use crate::simulate::plant::settings::PlantSettings;
use crate::simulate::requests::{PlantRequest, generate};
use admission::claim::Claim;
use admission::grants::LEASE;
use clap::ValueEnum;
use proptest::prelude::*;
use std::time::Duration;
use workload::arrivals::ArrivalProcess;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn case(load: Load, fault: Fault) -> Case {
    let (replicas, service) = TRAINING[0];
    Case { replicas, service, load, fault }
}

fn run(case: Case, protocol: Protocol, dispatchers: usize) -> Outcome {
    Trial { case, protocol, dispatchers, delay: Duration::from_micros(500), seed: 7 }.run()
}

#[test]
fn one_dispatcher_without_a_network_gives_nearly_the_results_of_the_plant() {
    for load in [Load::Steady, Load::Burst, Load::Overload] {
        let case = case(load, Fault::None);
        let times = case.service.times();
        let settings = PlantSettings {
            objective: OBJECTIVE,
            deadline: DEADLINE,
            max_queue_length: usize::MAX,
            slots: case.service.slots,
            ..PlantSettings::simple(times.clone())
        };
        let mut plant = Plant::new(settings, case.replicas, 3);
        let workload = load.workload(case.requests_per_second());
        let mut arrivals = generate(&workload, ArrivalProcess::Poisson, &times, 3).peekable();
        plant.run(&mut arrivals, Duration::from_secs(60));
        plant.finish_all();
        let expected = plant.totals();
        for protocol in [Protocol::Blind, Protocol::Board] {
            let it = Trial { case, protocol, dispatchers: 1, delay: Duration::ZERO, seed: 3 }.run();
            assert_eq!(it.offered, expected.offered);
            // Replicas whose slots were all taken have other turns here.
            for (found, expected) in
                [(it.in_time, expected.in_time), (it.refused, expected.shed), (it.expired, expected.expired)]
            {
                assert!(found.abs_diff(expected) * 100 <= it.offered, "{protocol:?} {load:?}: {found}, not {expected}");
            }
            assert_eq!((it.busy, it.small_messages), (0, 0), "a single dispatcher needs no messages");
        }
    }
}

#[test]
fn claims_upload_no_bodies_in_vain_and_keep_slots_busy() {
    let case = case(Load::Overload, Fault::None);
    let one = run(case, Protocol::Blind, 1);
    let (blind, board) = (run(case, Protocol::Blind, 8), run(case, Protocol::Board, 8));
    assert!(blind.busy_share() > 0.9, "{}", blind.busy_share());
    assert!(board.busy_share() < 0.02, "{}", board.busy_share());
    assert!(board.idle_share() - one.idle_share() < 0.005, "{} {}", board.idle_share(), one.idle_share());
    assert!(board.in_time as f64 > 0.95 * one.in_time as f64, "{} {}", board.in_time, one.in_time);
    let ratio = run(self::case(Load::Burst, Fault::None), Protocol::Board, 8).retry_after_ratio();
    assert!(ratio.is_some_and(|ratio| (0.5..1.5).contains(&ratio)), "{ratio:?}");
}

#[test]
fn the_slots_that_a_dead_dispatcher_was_granted_go_to_others() {
    let case = case(Load::Steady, Fault::DispatcherDies);
    for protocol in [Protocol::Claims, Protocol::Board] {
        let outcome = run(case, protocol, 2);
        assert!(outcome.lost <= 20, "{outcome:?}");
        assert!(outcome.in_time + outcome.lost + 50 > outcome.offered, "{outcome:?}");
    }
}

/// A replica with `slots` slots that computes one request at a time.
fn replica(slots: usize) -> Replica {
    Replica::new(Service { slots, ..TRAINING[1].1 }, 3)
}

/// A note with a claim of a dispatcher whose next request has waited for `waited`.
fn note(version: u64, slots: usize, waited: Duration) -> Note {
    let claim = Claim { slots, waiting: slots, waited, late_after: Some(MS(400)) };
    Note { version, claim, ..Note::default() }
}

const REQUEST: ToReplica = ToReplica::Request {
    request: PlantRequest { arrived: 0, service_time: 50_000_000 },
    dispatched: 0,
    is_granted: false,
};

#[test]
fn a_free_slot_goes_to_the_request_that_has_waited_longest() {
    let mut replica = replica(1);
    let pass = replica.receive(0, Note::default(), REQUEST, 0).passes.remove(0);
    for (dispatcher, waited) in [(0, 20), (1, 30), (2, 60)] {
        let effects = replica.receive(dispatcher, note(1, 1, MS(waited)), ToReplica::Claim, 0);
        assert!(matches!(effects.messages[..], [(_, ToDispatcher::Queued)]), "{effects:?}");
    }
    let effects = replica.end_pass(pass, 50_000_000);
    let [(0, ToDispatcher::Answer { .. }), (2, ToDispatcher::Grant { is_reply: false })] = effects.messages[..] else {
        panic!("{effects:?}")
    };
    // An unneeded slot goes to the next claim.
    let effects = replica.receive(2, note(2, 0, Duration::ZERO), ToReplica::Return, 51_000_000);
    assert!(matches!(effects.messages[..], [(1, ToDispatcher::Grant { .. })]), "{effects:?}");
    // A request without a grant does not get the slot.
    let effects = replica.receive(2, note(3, 0, Duration::ZERO), REQUEST, 52_000_000);
    assert!(matches!(effects.messages[..], [(2, ToDispatcher::Busy { .. })]), "{effects:?}");
    // Dispatcher 1 has died. Its lease ends, and the slot goes to the first dispatcher.
    let ends = 51_000_000 + LEASE.as_nanos() as u64;
    assert!(replica.end_leases(1, ends - 1).messages.is_empty());
    let effects = replica.end_leases(1, ends);
    let [(1, ToDispatcher::Forgotten), (0, ToDispatcher::Grant { .. })] = effects.messages[..] else {
        panic!("{effects:?}")
    };
}

#[test]
fn a_replica_ignores_a_claim_that_a_newer_one_has_overtaken() {
    let mut replica = replica(1);
    let pass = replica.receive(0, Note::default(), REQUEST, 0).passes.remove(0);
    replica.receive(1, note(2, 0, Duration::ZERO), ToReplica::Update, 1);
    replica.receive(1, note(1, 1, MS(5)), ToReplica::Claim, 2);
    let effects = replica.end_pass(pass, 50_000_000);
    assert!(matches!(effects.messages[..], [(0, ToDispatcher::Answer { .. })]), "{effects:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_request_is_counted_and_no_slot_holds_two(
        protocol in prop::sample::select(Protocol::value_variants()),
        load in prop::sample::select(vec![Load::Steady, Load::Burst, Load::Overload]),
        fault in prop::sample::select(vec![Fault::None, Fault::DispatcherDies, Fault::Rollout]),
        dispatchers in 1..9_usize,
        replicas in 2..5_usize,
        slots in 1..4_usize,
        max_batch in 1..3_usize,
        delay in 0..3_000_u64,
        seed in 0..100_u64,
    ) {
        let service = Service { slots, max_batch, batch_growth: 0.5, milliseconds: 90, ..TRAINING[1].1 };
        let case = Case { replicas, service, load, fault };
        // The simulation subtracts the slots that are taken from all slots, and panics if the difference is below zero.
        let it = Trial { case, protocol, dispatchers, delay: Duration::from_micros(delay), seed }.run();
        // A request that is answered after its deadline counts as answered and as expired.
        prop_assert!(it.answered + it.refused + it.lost <= it.offered, "{:?}", it);
        prop_assert!(it.offered <= it.answered + it.refused + it.lost + it.expired, "{:?}", it);
        prop_assert!(it.in_time <= it.answered && it.answered + it.busy <= it.attempts, "{:?}", it);
        prop_assert!(dispatchers > 1 || it.busy == 0);
    }
}
