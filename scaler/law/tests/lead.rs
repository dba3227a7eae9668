//! The leads of replicas that are added one after the other.

use law::lead::Leads;
use proptest::prelude::*;

/// 100 replicas serve. A start takes 3 s and a decision half a second, and 20 replicas are added per second.
const LEADS: Leads = Leads { startup: 3.0, decision: 0.5, starts_per_second: 20.0, ready: 100, desired: 100 };

/// The lead of `replica` of at most 10,000 replicas.
fn lead(leads: Leads, replica: usize) -> f64 {
    let mut groups = leads.groups(10_000);
    groups.find(|(group, _)| group.contains(&replica)).map(|(_, lead)| lead).expect("each replica is in a group")
}

#[test]
fn a_replica_that_waits_for_others_has_a_longer_lead() {
    let many_starting = Leads { desired: 1100, ..LEADS };
    let few_starting = Leads { desired: 130, ..LEADS };
    let slow_start = Leads { startup: 60.0, ..many_starting };
    let at_once = Leads { starts_per_second: f64::INFINITY, ..LEADS };
    for (leads, replica, expected) in [
        (LEADS, 1, 3.5),
        (LEADS, 100, 3.5),
        // Few more replicas have the lead of the first one.
        (LEADS, 104, 3.5),
        (LEADS, 1100, 53.5),
        (LEADS, 10_000, 498.5),
        // A thousand replicas were just added, of which the first ones have been created.
        (many_starting, 100, 3.5),
        (many_starting, 600, 25.5),
        (many_starting, 1100, 50.5),
        (many_starting, 2100, 103.5),
        // All thirty will have been created when the first of them serves.
        (few_starting, 130, 3.5),
        (few_starting, 330, 13.5),
        (slow_start, 1100, 60.5),
        (at_once, 10_000, 3.5),
    ] {
        let found = lead(leads, replica);
        // The replicas of a group have the lead of the first of them.
        assert!(found <= expected && found > 0.9 * expected, "{leads:?}, replica {replica}: {found}");
        assert!(expected > 3.5 || found == 3.5, "{leads:?}, replica {replica}: {found}");
    }
}

proptest! {
    #[test]
    fn the_groups_have_each_replica_once_and_are_few(
        startup in 0.0..600.0, decision in 0.0..60.0, starts_per_second in 0.1..1e5, ready in 0..20_000_usize,
        desired in 0..20_000_usize, most in 1..10_000_usize,
    ) {
        let leads = Leads { startup, decision, starts_per_second, ready, desired };
        let groups: Vec<_> = leads.groups(most).collect();
        let replicas: Vec<usize> = groups.iter().flat_map(|(group, _)| group.clone()).collect();
        prop_assert_eq!(replicas, (1..=most).collect::<Vec<_>>());
        prop_assert!(groups.windows(2).all(|pair| pair[0].1 < pair[1].1), "{:?}", groups);
        prop_assert!(groups.len() <= 200, "{} groups", groups.len());
    }

    #[test]
    fn each_group_has_the_lead_of_its_first_replica(
        startup in 0.0..600.0, decision in 0.0..60.0, starts_per_second in 0.1..1e3, ready in 0..3000_usize,
        desired in 0..3000_usize,
    ) {
        let leads = Leads { startup, decision, starts_per_second, ready, desired };
        for (group, found) in leads.groups(6000) {
            for replica in [*group.start(), *group.end()] {
                let waits_for = |others: usize| replica.saturating_sub(others) as f64 / starts_per_second;
                let lead = decision + (startup + waits_for(desired)).max(waits_for(ready));
                let next = (1.1 * found).max(found + 0.25);
                prop_assert!(found <= lead + 1e-6 && lead < next + 1e-6, "replica {}: {} and not {}", replica, found, lead);
            }
        }
    }
}
