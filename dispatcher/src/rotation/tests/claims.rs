//! Tests of claims: which replicas are asked for a slot, and what is known of others.

use super::super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// A rotation with ready replicas of the given capacity at these addresses, and their ids.
fn ready(addresses: &[&str], capacity: usize, now: Instant) -> (Rotation, Vec<ReplicaId>) {
    let mut rotation = Rotation::default();
    let added = addresses.iter().map(|&address| (Address::from(address), None)).collect();
    rotation.publish(&EndpointChanges { added, removed: Vec::new() }, now);
    let ids = rotation.due_probes(now);
    for &id in &ids {
        rotation.record_probe(id, ProbeAnswer::Ready { capacity }, now, 0.5);
    }
    (rotation, ids)
}

/// Ends an attempt with an answer that tells that others take `others` slots.
fn answer(rotation: &mut Rotation, id: ReplicaId, others: usize, now: Instant) {
    let signal = HealthSignal::Answered { capacity: None };
    let news = SlotNews { taken: Some(9), others: Some(others), ..SlotNews::default() };
    rotation.release(id, EndedAttempt { was_suspect: false, signal, news, service_time: SECOND }, now, 0.5);
}

/// Recomputes all that the rotation keeps up to date from its replicas.
fn check(rotation: &mut Rotation, now: Instant) {
    rotation.end_pauses(now);
    let (balance, spare) = (rotation.balance, rotation.spare);
    let (mut turns, mut asks): (Vec<Turn>, Vec<Turn>) = (Vec::new(), Vec::new());
    for replica in rotation.replicas() {
        let (turn, ask) = turns_of(replica, balance, spare);
        turns.extend(turn);
        asks.extend(ask);
    }
    turns.sort();
    asks.sort();
    assert_eq!(rotation.turns.iter().copied().collect::<Vec<_>>(), turns);
    assert_eq!(rotation.to_ask.iter().copied().collect::<Vec<_>>(), asks);
    let mut claimed: Vec<ReplicaId> =
        rotation.replicas().filter(|replica| replica.claims.slots > 0).map(|replica| replica.id).collect();
    claimed.sort();
    assert_eq!(rotation.claimed().collect::<Vec<_>>(), claimed);
    let asking = rotation.replicas().filter(|replica| replica.claims.asked.is_some()).count();
    assert_eq!(rotation.claim_counts(), (claimed.len(), asking));
    let boards = rotation.replicas().filter(|replica| replica.can_have_channel());
    let smallest = boards.map(|replica| &replica.address).min();
    assert_eq!(rotation.board().and_then(|id| rotation.replica(id)).map(|replica| &replica.address), smallest);
}

#[test]
fn a_dispatcher_that_has_its_replicas_for_itself_never_asks() {
    let now = Instant::now();
    let (mut rotation, ids) = ready(&["a", "b"], 1, now);
    for _ in 0..2 {
        assert!(rotation.pick(Constraints::default(), now).is_some());
    }
    assert!(!rotation.has_free_slot(now) && !rotation.seems_free(now));
    assert_eq!(rotation.next_to_ask(now), None);
    answer(&mut rotation, ids[0], 0, now);
    assert_eq!(rotation.next_to_ask(now), None);
    assert!(rotation.has_free_slot(now));
}

#[test]
fn replicas_that_others_use_are_asked_and_those_with_a_free_slot_come_first() {
    let now = Instant::now();
    let (mut rotation, ids) = ready(&["a", "b", "c"], 2, now);
    for id in &ids {
        rotation.set_channel(*id, true, now);
    }
    rotation.record_others(ids[0], 2, false, now);
    rotation.record_others(ids[1], 1, false, now);
    assert!(rotation.has_free_slot(now), "one slot seems free");
    // After a wrong guess, no slot is believed to be free.
    rotation.set_margin(3);
    assert!(!rotation.has_free_slot(now) && rotation.seems_free(now));
    let mut asked = Vec::new();
    while let Some(id) = rotation.next_to_ask(now) {
        rotation.ask(id, 1);
        asked.push(id);
    }
    assert_eq!(asked, [ids[1], ids[2], ids[0]]);
    assert_eq!(rotation.claim_counts(), (3, 3));
    assert_eq!((rotation.end_ask(ids[0]), rotation.end_ask(ids[1])), (Some(false), Some(true)));
    assert_eq!((rotation.end_ask(ids[1]), rotation.is_asked(ids[2])), (None, true));
    rotation.set_margin(2);
    assert_eq!(rotation.pick(Constraints::default(), now), Some(ids[2]), "two slots seem free there");
    assert_eq!(rotation.pick(Constraints::default(), now), None);
    check(&mut rotation, now);
}

#[test]
fn a_granted_slot_is_used_unless_the_request_may_not_be_sent_there() {
    let now = Instant::now();
    let (mut rotation, ids) = ready(&["a", "b"], 1, now);
    rotation.record_others(ids[0], 1, true, now);
    let tried = [Address::from("a")];
    let failed_there = Constraints { tried: &tried, is_suspect: false };
    assert!(!rotation.pick_granted(ids[0], failed_there, now), "another replica is ready");
    assert!(rotation.pick_granted(ids[0], Constraints::default(), now));
    assert!(!rotation.pick_granted(ids[0], Constraints::default(), now), "all its slots are used");
    let unpublished = EndpointChanges { added: Vec::new(), removed: vec![Address::from("b")] };
    rotation.publish(&unpublished, now);
    assert!(!rotation.pick_granted(ids[1], Constraints::default(), now), "it drains");
    answer(&mut rotation, ids[0], 0, now);
    assert!(rotation.pick_granted(ids[0], failed_there, now), "no other replica is ready");
    check(&mut rotation, now);
}

#[test]
fn the_slots_of_others_stay_taken_while_the_replica_can_be_asked() {
    let now = Instant::now();
    let (mut rotation, ids) = ready(&["a"], 1, now);
    rotation.set_channel(ids[0], true, now);
    rotation.record_others(ids[0], 1, false, now);
    assert!(!rotation.has_free_slot(now + 100 * SECOND));
    rotation.ask(ids[0], 1);
    rotation.set_channel(ids[0], false, now);
    assert_eq!(rotation.claim_counts(), (0, 0), "claims end with the channel");
    assert!(rotation.has_free_slot(now + SECOND), "without a channel, the replica is tried now and then");
}

#[test]
fn a_replica_without_a_channel_is_not_asked_until_its_rest_is_over() {
    let now = Instant::now();
    let (mut rotation, ids) = ready(&["a", "b"], 1, now);
    rotation.set_margin(2);
    rotation.rest(ids[0], now + SECOND, true);
    assert_eq!((rotation.next_to_ask(now), rotation.board()), (Some(ids[1]), Some(ids[1])));
    assert_eq!(rotation.pick(Constraints::default(), now), Some(ids[0]), "it is used without a question");
    rotation.rest(ids[1], now + SECOND, false);
    assert_eq!((rotation.next_to_ask(now), rotation.board()), (None, Some(ids[1])));
    assert_eq!(rotation.next_wake_up(now, SECOND), Some(now + SECOND));
    assert_eq!(rotation.next_to_ask(now + SECOND), Some(ids[1]));
    assert_eq!(rotation.board(), Some(ids[0]), "the smallest address of all that can have a channel");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Pick,
    Answer(usize, usize),
    Fail(usize),
    Grant(usize),
    Ask(usize),
    EndAsk(usize),
    SetClaim(usize, usize),
    Channel(usize, bool),
    Others(usize, usize, bool),
    Rest(usize, bool),
    Margin(usize),
    Publish(u8),
    Probe,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = || 0..20_usize;
    prop_oneof![
        3 => Just(Step::Pick),
        3 => (index(), 0..4_usize).prop_map(|(index, others)| Step::Answer(index, others)),
        1 => index().prop_map(Step::Fail),
        2 => index().prop_map(Step::Grant),
        3 => (1..4_usize).prop_map(Step::Ask),
        2 => index().prop_map(Step::EndAsk),
        1 => (index(), 0..3_usize).prop_map(|(index, slots)| Step::SetClaim(index, slots)),
        1 => (index(), any::<bool>()).prop_map(|(index, is_open)| Step::Channel(index, is_open)),
        2 => (index(), 0..4_usize, any::<bool>()).prop_map(|(index, slots, claim)| Step::Others(index, slots, claim)),
        1 => (index(), any::<bool>()).prop_map(|(index, is_refused)| Step::Rest(index, is_refused)),
        1 => (1..5_usize).prop_map(Step::Margin),
        1 => any::<u8>().prop_map(Step::Publish),
        2 => Just(Step::Probe),
        2 => (0..300_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens, the orders, the claims and the totals are those of the replicas.
    #[test]
    fn claims_are_kept_up_to_date(steps in prop::collection::vec(step(), 1..300)) {
        const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let mut now = Instant::now();
        let (mut rotation, mut known) = ready(&NAMES[..4], 2, now);
        let mut held = Vec::new();
        for step in steps {
            let at = |index: usize| known[index % known.len()];
            match step {
                Step::Pick => held.extend(rotation.pick(Constraints::default(), now)),
                Step::Answer(index, others) if !held.is_empty() => {
                    let id = held.swap_remove(index % held.len());
                    answer(&mut rotation, id, others, now);
                }
                Step::Fail(index) if !held.is_empty() => {
                    let id = held.swap_remove(index % held.len());
                    let (signal, news) = (HealthSignal::Unreachable, SlotNews::default());
                    rotation.release(id, EndedAttempt { was_suspect: false, signal, news, service_time: SECOND }, now, 0.5);
                }
                Step::Answer(..) | Step::Fail(_) => {}
                Step::Grant(index) => if rotation.pick_granted(at(index), Constraints::default(), now) {
                    held.push(at(index));
                },
                Step::Ask(slots) => if let Some(id) = rotation.next_to_ask(now) {
                    rotation.ask(id, slots);
                },
                Step::EndAsk(index) => drop(rotation.end_ask(at(index))),
                Step::SetClaim(index, slots) => rotation.set_claim(at(index), slots),
                Step::Channel(index, is_open) => rotation.set_channel(at(index), is_open, now),
                Step::Others(index, slots, claim) => rotation.record_others(at(index), slots, claim, now),
                Step::Rest(index, is_refused) => rotation.rest(at(index), now + SECOND, is_refused),
                Step::Margin(margin) => rotation.set_margin(margin),
                Step::Publish(bits) => {
                    let is_in = |name: &&str| bits >> (name.as_bytes()[0] - b'a') & 1 == 1;
                    let added = NAMES.iter().filter(|name| is_in(name)).map(|&name| (name.into(), None)).collect();
                    let removed = NAMES.iter().filter(|name| !is_in(name)).map(|&name| name.into()).collect();
                    rotation.publish(&EndpointChanges { added, removed }, now);
                    known.extend(rotation.replicas().map(|replica| replica.id));
                    known.sort();
                    known.dedup();
                }
                Step::Probe => for id in rotation.due_probes(now) {
                    rotation.record_probe(id, ProbeAnswer::Ready { capacity: 2 }, now, 0.5);
                },
                Step::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
            }
            check(&mut rotation, now);
        }
    }
}
