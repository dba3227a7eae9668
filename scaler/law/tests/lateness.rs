//! The share of late requests against Erlang's loss formula and the fluid limit, and its monotony.

use law::lateness::{LateTable, Waiting};
use proptest::prelude::*;

fn share(waiting: Waiting, replicas: usize, load: f64) -> f64 {
    waiting.late_shares(load).nth(replicas).expect("there is a share for each number of replicas")
}

#[test]
fn without_waiting_the_share_is_that_of_erlangs_loss_formula() {
    let waiting = Waiting { service: 0.1, squared_variation: 1.0, limit: 0.0 };
    // B(n, x) from tables.
    for (replicas, load, loss) in
        [(0, 3.0, 1.0), (1, 1.0, 0.5), (2, 1.0, 0.2), (3, 2.0, 4.0 / 19.0), (10, 7.0, 0.078_741)]
    {
        let found = share(waiting, replicas, load);
        assert!((found - loss).abs() < 1e-6, "{replicas} replicas, {load} erlangs: {found}");
    }
}

#[test]
fn an_overload_is_late_and_a_long_wait_limit_saves_the_rest() {
    let waiting = Waiting { service: 0.1, squared_variation: 0.0, limit: 100.0 };
    // What two of five replicas' load exceeds is late. At the edge, where n = x, nearly nothing is.
    for (replicas, load, expected) in
        [(2, 5.0, 0.6), (5, 5.0, 0.0), (6, 5.0, 0.0), (1, 800.0, 799.0 / 800.0), (3000, 4000.0, 0.25)]
    {
        let found = share(waiting, replicas, load);
        assert!((found - expected).abs() < 1e-3, "{replicas} replicas, {load} erlangs: {found}");
    }
}

#[test]
fn a_table_is_used_until_the_service_times_have_changed() {
    let waiting = Waiting { service: 0.1, squared_variation: 0.5, limit: 0.3 };
    let table = LateTable::new(waiting, &[1.0, 2.0], 2);
    assert!(table.holds_for(Waiting { service: 0.1005, ..waiting }));
    for other in [
        Waiting { service: 0.103, ..waiting },
        Waiting { squared_variation: 0.6, ..waiting },
        Waiting { limit: 0.29, ..waiting },
    ] {
        assert!(!table.holds_for(other), "{other:?}");
    }
    // With no replica, all 10 or 20 requests per second are late. Between two loads of the grid, the figure is between.
    for (factor, rise, expected) in [(1.0, 0.0, 10.0), (1.5, 0.0, 15.0), (1.0, 0.25, 12.5), (9.0, 0.0, 20.0)] {
        assert!((table.expected(&[1.0, 2.0], &[1.0, 0.0], factor, rise, 0..=0)[0] - expected).abs() < 1e-9);
    }
}

#[test]
fn a_part_of_the_expected_late_requests_is_that_of_all() {
    let waiting = Waiting { service: 0.1, squared_variation: 0.5, limit: 0.3 };
    // With a load of 0.02 erlangs, no request is late with the highest numbers of replicas.
    let (loads, probabilities) = ([0.02, 5.0, 900.0], [0.5, 0.3, 0.2]);
    let table = LateTable::new(waiting, &loads, 1000);
    let all = table.expected(&loads, &probabilities, 1.02, 1.5, 0..=1000);
    assert_eq!(all.len(), 1001);
    for part in [0..=0, 3..=8, 890..=1000, 1000..=1000] {
        assert_eq!(table.expected(&loads, &probabilities, 1.02, 1.5, part.clone()), all[part.clone()], "{part:?}");
    }
}

proptest! {
    #[test]
    fn more_replicas_and_longer_limits_never_make_more_requests_late(
        load in 0.01..300.0, service in 0.001..2.0, squared_variation in 0.0..9.0, limit in 0.0..10.0
    ) {
        let waiting = Waiting { service, squared_variation, limit };
        let shares: Vec<f64> = waiting.late_shares(load).take(400).collect();
        prop_assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "{shares:?}");
        prop_assert!(shares.windows(2).all(|pair| pair[1] <= pair[0] + 1e-9));
        let longer = Waiting { limit: 1.1 * limit + 0.01, ..waiting };
        prop_assert!(longer.late_shares(load).zip(&shares).all(|(longer, share)| longer <= share + 1e-9));
    }

    #[test]
    fn the_shares_are_those_of_the_formula(
        load in 0.01..3000.0, service in 0.001..2.0, squared_variation in 0.0..9.0, limit in 0.0..10.0
    ) {
        let waiting = Waiting { service, squared_variation, limit };
        let decay = 2.0 * (limit / service) / (1.0 + squared_variation);
        let mut inverse_loss = 1.0;
        for (replicas, found) in (1..3600).zip(waiting.late_shares(load).skip(1)) {
            let replicas = f64::from(replicas);
            let (spare, inverse) = (replicas - load, inverse_loss);
            inverse_loss = 1.0 + inverse * replicas / load;
            // Near n = x, the formula as it is written loses its digits. Far from there, E is no float.
            if spare.abs() < 1e-3 || (decay * spare).abs() > 600.0 {
                continue;
            }
            let left = (-decay * spare).exp();
            let expected = load / replicas * left / (inverse + load * ((1.0 - left) / spare + left / replicas));
            prop_assert!((found - expected).abs() < 1e-9, "{} replicas: {} and not {}", replicas, found, expected);
        }
    }
}
